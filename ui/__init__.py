"""The page's parts, one file per tab; and Gradio, imported in half the time."""

import inspect


def _import_gradio() -> None:
    """Import Gradio without the stubs (``.pyi``) that it writes beside its own sources at every import, which take a second.

    It writes one for every component class whose file it can find, and goes on where it finds none.
    """
    find = inspect.getfile

    def elsewhere(thing: object) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError
        return find(thing)

    inspect.getfile = elsewhere
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = find


_import_gradio()
