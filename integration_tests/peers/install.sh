#!/usr/bin/env bash
# Install the foreign programs the integration tests talk to (Debian and npm). Safe to repeat; quick when all is there.
#
#   integration_tests/peers/install.sh            the peers of `make test`
#   WITH_CHROMIUM=1 integration_tests/peers/install.sh   also a browser, for tests of the operations page
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Receivers of Debian start with the package; ours are private ones on free ports, so theirs may run or not.
packages=(dcmtk dicom3tools libpixelmed-java default-jre-headless orthanc orthanc-dicomweb fonts-noto-cjk)
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
[ "${WITH_CHROMIUM:-0}" = 1 ] && packages+=(chromium)

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi

missing=()
for package in "${packages[@]}"; do
    status="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)"
    [ "$status" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "peers: installing ${missing[*]} from Debian"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "peers: Debian packages are present"
fi

# npm keeps what it installed in node_modules/.package-lock.json; a newer one than ours means nothing to do.
if [ "$here/node_modules/.package-lock.json" -nt "$here/package-lock.json" ]; then
    echo "peers: npm packages are present"
else
    echo "peers: installing npm packages"
    (cd "$here" && npm ci --no-fund --no-audit --ignore-scripts --loglevel=error)
    touch "$here/node_modules/.package-lock.json"
fi
