"""A signed address and a call answered by a stub: no service is asked."""

import boto3
from botocore.stub import Stubber

client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
assert "Signature" in url
with Stubber(client) as stub:
    stub.add_response("list_buckets", {"Buckets": [{"Name": "bucket"}]})
    assert client.list_buckets()["Buckets"][0]["Name"] == "bucket"
