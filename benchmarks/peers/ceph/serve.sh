#!/bin/bash
# Ceph with one monitor and three OSDs on this machine, from Debian's packages, with everything in one
# folder: an RBD image of three copies.
#
#   serve.sh --install      installs ceph-mon, ceph-osd and ceph-common (apt-get; root)
#   serve.sh DIR BYTES      starts it and writes DIR/target.json when it serves; ends with its input
#
# The benchmark runs the second form in namespaces of its own for processes and mounts: when this script
# ends, however it ends, every daemon ends with it. There is no manager daemon: nothing here asks it.
set -euo pipefail

if [ "${1:-}" = --install ]; then
  exec apt-get install --yes --no-install-recommends ceph-mon ceph-osd ceph-common
fi
dir=$1 bytes=$2
mkdir -p "$dir"/{run,log,mon,osd0,osd1,osd2}
export CEPH_CONF=$dir/ceph.conf
trap 'tail -n 40 "$dir"/log/*.log >&2 2>/dev/null || true' ERR

# Each OSD keeps its data in a file that it reads and writes past the page cache, with room for writes
# that go to new places. The file is written once before, so that no write waits for the allocation of
# its blocks by the file system. The settings are those of a solid state disk.
file_bytes=$((bytes * 3 / 2 + 1024 ** 3))
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >"$CEPH_CONF" <<END
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:23300/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $dir/run
admin_socket = $dir/run/\$name.asok
log_file = $dir/log/\$name.log
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
ms_bind_ipv6 = false
[mon]
mon_data = $dir/mon
mon_cluster_log_file = $dir/log/cluster.log
auth_allow_insecure_global_id_reclaim = true
[osd]
osd_data = $dir/osd\$id
osd_objectstore = bluestore
osd_memory_target = 1073741824
bluestore_block_size = $file_bytes
bluestore_debug_enforce_settings = ssd
[client]
log_file = $dir/log/client.log
rbd_cache = false
END

monmaptool --create --fsid "$fsid" --addv a '[v2:127.0.0.1:23300/0]' "$dir/monmap" >/dev/null
ceph-mon --mkfs -i a --monmap "$dir/monmap" 2>>"$dir/log/start.log"
ceph-mon -f -i a 2>>"$dir/log/start.log" >/dev/null &
ceph() { command ceph --connect-timeout 20 "$@" 2>>"$dir/log/start.log" </dev/null; }
ceph mon stat >/dev/null
for id in 0 1 2; do
  uuid=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$uuid" >/dev/null
  dd if=/dev/zero of="$dir/osd$id/block" bs=4M count="$file_bytes" iflag=count_bytes oflag=direct status=none
  ceph-osd --mkfs -i "$id" --osd-uuid "$uuid" 2>>"$dir/log/start.log" >/dev/null
  ceph-osd -f -i "$id" 2>>"$dir/log/start.log" >/dev/null &
done
for _ in $(seq 300); do
  ceph osd stat | grep -q '3 osds: 3 up' && break
  sleep 0.2
done
ceph osd stat | grep -q '3 osds: 3 up'
ceph osd pool create bench 32 32 >/dev/null
ceph osd pool application enable bench rbd >/dev/null
timeout 60 rbd create --pool bench --size "${bytes}B" image 2>>"$dir/log/start.log"

cat >"$dir/target.json.new" <<END
{ "fio": { "ioengine": "rbd", "clientname": "admin", "pool": "bench", "rbdname": "image" },
  "env": { "CEPH_CONF": "$CEPH_CONF" } }
END
mv "$dir/target.json.new" "$dir/target.json"
cat >/dev/null
