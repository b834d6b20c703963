"""``uvicorn vibevoice_otel.service.main:app``; configured by VIBEVOICE_SERVICE_*."""

from vibevoice_otel.service.app import create_app

app = create_app()
