"""The private names of the stores' libraries, checked before a store is opened.

This module does not import the libraries, since it could not report a missing name then. Each name is used only in the
module of its store.
"""

from __future__ import annotations

from collections.abc import Mapping

from holdfast_storage.internals import Internals

_S3FS = Internals(
    "s3fs",
    "s3fs>=2025.3,<2027",
    "s3fs.core:S3FileSystem _call_s3(method) get_s3(bucket) set_session() split_path(path) retries session",
)
_BOTOCORE = Internals(
    "botocore",
    "aiobotocore>=2.19,<4",
    """
    botocore.awsrequest AWSResponse(url,status_code,headers,raw)
    botocore.httpsession URLLib3Session(verify,proxies,timeout,max_pool_connections,client_cert,proxies_config)
    botocore.utils get_environ_proxies(url)
    """,
)
_URLLIB3 = Internals(
    "urllib3",
    "urllib3>=2.3,<3",
    "urllib3.response:HTTPResponse _original_response release_conn() shutdown()",
)
_GCSFS = Internals(
    "gcsfs",
    "gcsfs>=2025.3,<2027",
    """
    gcsfs.core:GCSFileSystem _get_headers(headers) _get_params(kwargs) _location _set_session() credentials
    gcsfs.credentials:GoogleCredentials connect(method) credentials maybe_refresh()
    """,
)
_ADLFS = Internals("adlfs", "adlfs>=2024.12,<2027", "adlfs.spec:AzureBlobFileSystem service_client")
_AZURE_BLOB = Internals(
    "azure.storage.blob", "azure-storage-blob>=12.23,<13", "azure.storage.blob.aio:BlobServiceClient _pipeline"
)
_AZURE_CORE = Internals(
    "azure.core",
    "azure-core>=1.31,<2",
    """
    azure.core.pipeline:AsyncPipeline _transport
    azure.core.pipeline.transport:AioHttpTransport open() session
    """,
)
_AIOHTTP = Internals("aiohttp", "aiohttp>=3.11,<4", "aiohttp:ClientSession _retry_connection")
_FSSPEC = Internals(
    "fsspec",
    "fsspec>=2025.3,<2027",
    "fsspec.spec:AbstractFileSystem _get_kwargs_from_urls(path) _strip_protocol(path)",
)

INTERNALS: Mapping[str, tuple[Internals, ...]] = {
    "s3": (_S3FS, _BOTOCORE, _URLLIB3),
    "gs": (_GCSFS,),
    "az": (_ADLFS, _AZURE_BLOB, _AZURE_CORE, _AIOHTTP),
    "": (_FSSPEC,),
}
"""The libraries by the protocol of a URL; under the empty one, that for all others."""


def check_internals(protocol: str) -> None:
    """Raise InvalidRequest if a library that opens such URLs has a version that does not work.

    Raises ImportError if it is missing.
    """
    for library in INTERNALS.get(protocol, INTERNALS[""]):
        library.check()
