"""How bytes reach the server: connections, requests, writes whose outcome is known, attachments, outages."""
