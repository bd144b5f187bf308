"""The Space: see, hear and steer the features of a sound in the browser.

python app.py                              # the shipped étude bundle, no network: http://127.0.0.1:7860
BUNDLE=runs/mine python app.py             # another bundle: a folder, or a Hub id with BUNDLE_REVISION
GRADIO_SERVER_PORT=8000 python app.py
"""

from ui.page import launch

if __name__ == "__main__":
    launch()
