"""The listener's side, by ASGI and by WSGI: when a request arrived, when its first audio left, how it ended, and what
must not be in its URL.
"""
