"""The stand-in service's certificate, and its authority in the two forms a localproxy is given."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import trustme
from cryptography import x509


class Certificates:
    """A fresh certificate authority and a server certificate for localhost, 127.0.0.1 and ::1.

    Writes into `directory`: `ca.pem`, and `ca/<hash>.0`, the same certificate under the name by which
    OpenSSL looks it up in a directory.
    """

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.cert_pem.bytes()
        self.ca_file = directory / "ca.pem"
        self.ca_directory = directory / "ca"
        self.ca_directory.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_bytes(certificate)
        (self.ca_directory / f"{subject_hash(certificate)}.0").write_bytes(certificate)
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_context.minimum_version = ssl.TLSVersion.TLSv1_2
        authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(self.server_context)


def subject_hash(certificate: bytes) -> str:
    """What `openssl x509 -hash` prints for a PEM certificate, so that no openssl command is needed.

    OpenSSL hashes the subject in a form of its own: every value as UTF-8, in lower case, with single
    spaces, and without the outermost DER header.
    """
    subject = x509.load_pem_x509_certificate(certificate).subject
    canonical = x509.Name(
        x509.RelativeDistinguishedName(
            x509.NameAttribute(attribute.oid, " ".join(attribute.value.lower().split()))
            for attribute in names
            if isinstance(attribute.value, str)
        )
        for names in subject.rdns
    ).public_bytes()
    length_bytes = canonical[1] & 0x7F if canonical[1] & 0x80 else 0
    digest = hashlib.sha1(canonical[2 + length_bytes :], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"
