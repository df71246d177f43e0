"""Have a full disk reported once, by whoever writes to TensorBoard, not also by its thread.

The thread that writes the events hands its error on to the next call, and prints a traceback all
the same (``_AsyncWriterThread.run`` in
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/summary/writer/event_file_writer.py).
"""

import threading

_print = threading.excepthook


def _leave_out(args: threading.ExceptHookArgs) -> None:
    handed_on = getattr(args.thread, "exception", None) is args.exc_value
    if not (isinstance(args.exc_value, OSError) and handed_on):
        _print(args)


def quiet_thread() -> None:
    """Leave out the traceback of an error that is handed on."""
    threading.excepthook = _leave_out
