"""OHIF beside an archive's DICOMweb, under one origin as a site would serve it. Arguments: PORT DIST ARCHIVE_URL."""

import sys
from pathlib import Path

from aiohttp import ClientSession, web

#: Where OHIF asks; the archive answers.
DICOMWEB = "/dicom-web"
#: What a hop may not pass on (RFC 9110 7.6.1), and what the proxy states itself.
_HOP = frozenset({"connection", "transfer-encoding", "content-encoding", "content-length", "host", "keep-alive"})
_CONFIGURATION = """
window.config = {
  routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 1, showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  strictZSpacingForVolumeViewport: true, investigationalUseDialog: { option: 'never' },
  maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 5 },
  defaultDataSourceName: 'archive',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'archive',
    configuration: {
      friendlyName: 'archive', name: 'archive',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: false, supportsReject: false, supportsFuzzyMatching: false, supportsWildcard: true,
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
}
"""


def build(dist: Path, archive_url: str) -> web.Application:
    """Build the server: OHIF's own files, its configuration, and the archive behind `/dicom-web`."""

    async def pass_on(request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        # Orthanc writes its own URLs (bulk data) from this.
        headers["Forwarded"] = f"host={request.host};proto=http"
        async with (
            ClientSession(auto_decompress=True) as session,
            session.request(
                request.method, archive_url + str(request.rel_url), headers=headers, data=await request.read()
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def show(request: web.Request) -> web.StreamResponse:
        path = (dist / request.path.lstrip("/")).resolve()
        # Every address of OHIF's own (`/viewer`) is its one page.
        whole = path.is_relative_to(dist) and path.is_file()
        return web.FileResponse(path if whole else dist / "index.html")

    async def configure(request: web.Request) -> web.Response:
        return web.Response(text=_CONFIGURATION, content_type="text/javascript")

    server = web.Application(client_max_size=1 << 30)
    server.router.add_route("*", DICOMWEB + "/{path:.*}", pass_on)
    server.router.add_get("/app-config.js", configure)
    server.router.add_get("/{path:.*}", show)
    return server


if __name__ == "__main__":
    port, folder, url = sys.argv[1:]
    web.run_app(build(Path(folder).resolve(), url), host="127.0.0.1", port=int(port), print=None)
