#!/usr/bin/env bash
# Install the foreign programs the integration tests talk to (Debian and npm). Safe to repeat; quick when all is there.
#
#   integration_tests/peers/install.sh                   the peers of `make test`
#   WITH_CHROMIUM=0 integration_tests/peers/install.sh   without the browser and the viewer it shows (test_viewer.py skips)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Receivers of Debian start with the package; ours are private ones on free ports, so theirs may run or not.
packages=(dcmtk dicom3tools libpixelmed-java default-jre-headless orthanc orthanc-dicomweb fonts-noto-cjk openssl)
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
with_chromium="${WITH_CHROMIUM:-1}"
[ "$with_chromium" = 1 ] && packages+=(chromium)

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

# The viewer OHIF, ready built. Only its `dist` is taken: as a dependency it would bring all that it is built with.
ohif=@ohif/app@3.13.2
ohif_integrity=sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==
if [ "$with_chromium" != 1 ]; then
    echo "peers: no viewer (WITH_CHROMIUM=$with_chromium)"
elif [ "$(cat "$here/ohif/.version" 2>/dev/null)" = "$ohif" ]; then
    echo "peers: OHIF is present"
else
    echo "peers: fetching $ohif"
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    (cd "$folder" && npm pack --silent --ignore-scripts "$ohif" >/dev/null)
    got="sha512-$(openssl dgst -sha512 -binary "$folder"/*.tgz | base64 -w0)"
    [ "$got" = "$ohif_integrity" ] || { echo "peers: $ohif is not the file it was when it was chosen: $got"; exit 1; }
    rm -rf "$here/ohif"
    mkdir "$here/ohif"
    tar -xzf "$folder"/*.tgz -C "$here/ohif" --strip-components=1 package/dist
    echo "$ohif" >"$here/ohif/.version"
fi
