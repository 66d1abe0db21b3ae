"""The API's own page: Swagger UI from installed files, so that it opens on a machine without a network."""

from importlib.resources import files

from fastapi import FastAPI, Request, Response

_ASSETS = files("fastapi_offline") / "static"
_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


def add_docs(app: FastAPI, title: str) -> None:
    """`/docs` with everything it loads, under a content policy that allows this host only."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return Response(_PAGE.format(title=title), media_type="text/html", headers={"content-security-policy": _POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        media_type = _TYPES.get(name)
        if media_type is None:
            return Response(status_code=404)
        headers = {"cache-control": "public, max-age=86400"}
        return Response((_ASSETS / name).read_bytes(), media_type=media_type, headers=headers)
