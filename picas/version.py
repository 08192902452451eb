"""The version of picas: the one place where it is written."""

VERSION = "2.0.0"
