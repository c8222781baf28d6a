#!/bin/sh
# Build lopower-sidecar:  build.sh OUTPUT          GOOS, GOARCH and GOARM cross-build as usual
#                         build.sh OUTPUT SOURCE   another program with the same library: the test tailnet
#                         build.sh --tags          print the build tags (for go vet and go test)
#
# The tags leave out what a sidecar has no use for: a third of the program, and all that uploads logs or updates itself.
set -eu

omitted="ace advertiseexitnode appconnectors aws bird cachenetmap captiveportal capture cli cliconndiag clientmetrics
clientupdate cloud colorable completion completion_scripts conn25 dbus debug debugeventbus debugportmapper
desktop_sessions doctor drive flashappliance hujsonconf identityfederation iptables kube linkspeed linuxdnsfight
listenrawdisco logtail netlog networkmanager osrouter outboundproxy portlist posture qrcodes relayserver remoteconfig
resolved routecheck runtimemetrics sdnotify serviceclientprefs ssh synology syslog syspolicy systray taildrop tap tpm
tundevstats unixsocketidentity usermetrics wakeonlan webbrowser webclient"

tags=
for feature in $omitted; do
  tags="$tags${tags:+,}ts_omit_$feature"
done

case "${1-}" in
  --tags) echo "$tags" ;;
  ''|-*) echo "usage: build.sh OUTPUT [SOURCE] | --tags" >&2; exit 2 ;;
  *)
    case "$1" in /*) output=$1 ;; *) output=$PWD/$1 ;; esac
    cd "${2-$(dirname "$0")}"
    # A Go older than go.mod asks for fetches a newer one by itself; without that it says which it wants.
    exec env CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -tags "$tags" -o "$output" .
    ;;
esac
