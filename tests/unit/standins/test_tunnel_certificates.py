"""The certificates: OpenSSL itself must find the authority in the hashed directory."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from standins.tunnel_certificates import Certificates, subject_hash


def test_openssl_finds_the_authority_by_its_hash(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    client = ssl.create_default_context(capath=certificates.ca_directory)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        certificates.server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass


def test_the_hash_is_what_the_openssl_command_prints(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    authority = Certificates(tmp_path).ca_file
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(authority)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert subject_hash(authority.read_bytes()) == printed.strip()
