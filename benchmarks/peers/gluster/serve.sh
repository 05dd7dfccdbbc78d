#!/bin/bash
# GlusterFS with three bricks on this machine, from Debian's packages, with everything in one folder.
#
#   serve.sh --install      installs glusterfs-server (apt-get; root)
#   serve.sh DIR BYTES      starts it and writes DIR/target.json when it serves; ends with its input
#
# The benchmark runs the second form in namespaces of its own for processes and mounts: the folders of
# the machine that GlusterFS writes to are covered by folders in DIR, and when this script ends, however
# it ends, every daemon ends with it.
set -euo pipefail

if [ "${1:-}" = --install ]; then
  exec apt-get install --yes --no-install-recommends glusterfs-server
fi
dir=$1 bytes=$2
# GlusterFS refuses bricks on a loopback address, so it gets the first other one of this machine.
host=$(hostname -I | tr ' ' '\n' | grep -m 1 -v '^127\.\|:')
[ -n "$host" ] || { echo 'this machine has no address beside loopback, and GlusterFS wants one' >&2; exit 1; }

mkdir -p "$dir"/{lib,log,run,bricks/1,bricks/2,bricks/3}
for pair in lib:/var/lib/glusterd log:/var/log/glusterfs run:/run/gluster; do
  mkdir -p "${pair#*:}"
  mount --bind "$dir/${pair%%:*}" "${pair#*:}"
done
trap 'tail -n 40 "$dir"/log/*.log "$dir"/log/bricks/*.log >&2 2>/dev/null || true' ERR

cat >"$dir/glusterd.vol" <<END
volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option run-directory /run/gluster
    option glusterd-sockfile $dir/run/glusterd.socket
    option transport-type socket
    option transport.socket.bind-address $host
    option ping-timeout 0
    option event-threads 1
end-volume
END
glusterd --volfile="$dir/glusterd.vol" --pid-file="$dir/run/glusterd.pid" --log-file="$dir/log/glusterd.log"

gluster() { command gluster --mode=script --glusterd-sock="$dir/run/glusterd.socket" --log-file="$dir/log/cli.log" "$@"; }
for _ in $(seq 100); do gluster volume list >/dev/null 2>&1 && break; sleep 0.1; done
gluster volume create bench replica 3 "$host:$dir"/bricks/{1,2,3} force
# No cache and no early answer in the client: a write is answered when every brick has it, as it is
# everywhere else here. The rest is what its own "virt" profile sets for images of machines.
set_option() { gluster volume set bench "$1" "$2" >/dev/null; }
for off in write-behind read-ahead readdir-ahead io-cache quick-read open-behind; do
  set_option "performance.$off" off
done
set_option performance.low-prio-threads 32
set_option performance.client-io-threads on
set_option client.event-threads 4
set_option server.event-threads 4
set_option cluster.eager-lock enable
set_option user.cifs off
gluster volume start bench
bricks_online() { gluster volume status bench detail | grep -c '^Online *: *Y' || true; }
for _ in $(seq 100); do
  [ "$(bricks_online)" = 3 ] && break
  sleep 0.2
done
[ "$(bricks_online)" = 3 ]

cat >"$dir/target.json.new" <<END
{ "fio": { "ioengine": "gfapi_async", "volume": "bench", "brick": "$host", "filename": "/image" } }
END
mv "$dir/target.json.new" "$dir/target.json"
cat >/dev/null
