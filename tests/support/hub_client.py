"""What releases of the Hub's client differ in."""

from huggingface_hub.utils import _http

# early ones wait as long as they like
CLIENT_HEEDS_RETRY_AFTER = hasattr(_http, "_parse_retry_after")
