"""Helpers of the tests: faulty servers, pilot processes, a Slurm cluster and a DIRAC site."""
