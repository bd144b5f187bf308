"""What the page takes, and how much of it at once."""

MAX_SECONDS = 60.0
"""Longest sound that a visitor can bring, in seconds, decoded."""
MAX_MB = 30
"""Largest upload, in units of 1024² bytes."""
BUNDLES_LOADED = 2
"""Bundles kept in memory for all visitors together."""
WAITING = 64
"""Visitors who may wait for their turn; the next one is told that the page is busy."""
VISITORS = 200
"""Visitors whose page is remembered, the most recent ones: Gradio keeps a copy of every component for each."""
QUICK = 16
"""Events of one kind that run no model and may run at once."""
MODEL = {"concurrency_id": "model", "concurrency_limit": 2}
"""Events that run a model share this queue: ``button.click(..., **MODEL)``."""
KEPT_CHECKED = (600, 3000)
"""Files that Gradio itself keeps (uploads) are looked at every so many seconds, and deleted when they are so old: within the hour
that the page promises. A visitor's own folder goes when the page is closed."""
