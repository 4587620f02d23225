from datetime import UTC, datetime, timedelta

from minio import Minio

from infra.sigv4 import Signer

AT = datetime(2013, 5, 24, tzinfo=UTC)


def test_the_example_of_the_specification_gives_its_signature() -> None:
    """The worked example in Amazon's "Authenticating Requests: Using Query Parameters (Signature Version 4)"."""
    signer = Signer(
        "https://examplebucket.s3.amazonaws.com",
        "us-east-1",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    url = signer.presign("GET", "/test.txt", at=AT, ttl_s=86_400)
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_without_extra_headers_it_is_the_url_of_the_minio_sdk() -> None:
    client = Minio(endpoint="127.0.0.1:9000", access_key="me", secret_key="hidden", secure=False, region="eu-1")
    theirs = client.presigned_get_object(
        bucket_name="quorate", object_name="a b/c+d~é", expires=timedelta(seconds=60), request_date=AT
    )
    ours = Signer("http://127.0.0.1:9000", "eu-1", "me", "hidden").presign("GET", "/quorate/a b/c+d~é", at=AT, ttl_s=60)
    assert ours.split("Signature=")[1] == theirs.split("Signature=")[1]


def test_a_header_changes_the_signature_and_is_named() -> None:
    signer = Signer("http://host", "r", "me", "hidden")
    plain = signer.presign("PUT", "/b/k", at=AT, ttl_s=60)
    fixed = signer.presign("PUT", "/b/k", at=AT, ttl_s=60, headers={"if-none-match": "*"})
    assert "X-Amz-SignedHeaders=host%3Bif-none-match&" in fixed
    assert plain.split("Signature=")[1] != fixed.split("Signature=")[1]


def test_a_lifetime_is_cut_to_what_s3_accepts() -> None:
    signer = Signer("http://host", "r", "me", "hidden")
    assert "X-Amz-Expires=604800&" in signer.presign("GET", "/b/k", at=AT, ttl_s=1e9)
    assert "X-Amz-Expires=1&" in signer.presign("GET", "/b/k", at=AT, ttl_s=0.2)


def test_the_secret_is_in_no_repr_and_in_no_url() -> None:
    signer = Signer("http://host", "r", "me", "hidden")
    assert "hidden" not in repr(signer) + signer.presign("GET", "/b/k", at=AT, ttl_s=60)
