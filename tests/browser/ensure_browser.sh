#!/bin/sh
# Makes sure that there is a Chromium for the browser tests: the system's, else the distribution's package, else
# the one that playwright downloads. Usage: ensure_browser.sh PYTHON
set -u

found() {
    [ -n "${CHROMIUM:-}" ] && return 0
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

found && exit 0
if command -v apt-get >/dev/null 2>&1; then
    root=""
    [ "$(id -u)" -eq 0 ] || root="sudo -n"
    echo "No Chromium found: installing the distribution's package."
    if $root apt-get update -q && $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y chromium; then
        found && exit 0
    fi
fi
echo "No Chromium from the system: asking playwright for one."
"$1" -m playwright install chromium && exit 0
echo "No browser could be installed. Install Chromium or Chrome and run 'make test' again." >&2
exit 1
