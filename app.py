"""The Space: see, hear and steer the features of a sound in the browser.

python app.py                              # the shipped étude bundle, no network: http://127.0.0.1:7860
BUNDLE=runs/mine python app.py             # another bundle: a folder, or a Hub id with BUNDLE_REVISION
GRADIO_SERVER_PORT=8000 python app.py
"""

import os
import sys

PORT = os.environ.get("GRADIO_SERVER_PORT", "7860")
if not (PORT.isdecimal() and int(PORT) < 2**16):  # Gradio reads it while it is imported
    sys.stderr.write(f"app.py: GRADIO_SERVER_PORT is '{PORT}'; give a whole number from 0 to 65535, such as 7860\n")
    sys.exit(2)

from ui.page import launch  # noqa: E402

if __name__ == "__main__":
    launch()
