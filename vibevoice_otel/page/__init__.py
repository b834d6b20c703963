"""The live page: what the recorder has just finished, and what is open now, shown to a person in a browser.

It has an address of its own beside whatever service is observed (``VIBEVOICE_OTEL_PAGE``), and speaks to that service's
WebSocket as any client would. Off unless set, and then nothing here is even imported.
"""
