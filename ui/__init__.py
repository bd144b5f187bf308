"""The browser app: one file per tab, and the parts they share. The only place beside ``app.py`` that imports Gradio."""
