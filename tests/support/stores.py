"""S3 and Google Cloud Storage on this machine, where the packages that play them are installed."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

BUCKET = "rows"


@contextmanager
def s3() -> Iterator[Mapping[str, str]]:
    """The environment in which S3 is here, with an empty bucket."""
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it prints each request
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "5eC7e7",
            "AWS_SECRET_ACCESS_KEY": "5eC7e7",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.stop()


@contextmanager
def gcs() -> Iterator[Mapping[str, str]]:
    """The environment in which Google's storage is here."""
    pytest.importorskip("gcsfs")
    made = pytest.importorskip("gcp_storage_emulator.server").create_server("127.0.0.1", 0, in_memory=True)
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    made.start()
    try:
        port = made._api._httpd.server_port
        yield {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        }
    finally:
        made.stop()
