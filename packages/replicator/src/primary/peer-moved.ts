import { laneAddress, type PeerLanes } from '@stor/protocol';

import type { RemoteMember } from './remote-member.ts';

/** A node listens elsewhere now, or its disks are other lanes': members there are looked for anew. */
export function peerMoved(members: readonly RemoteMember[], peer: PeerLanes): void {
  for (const member of members) {
    if (member.nodeId !== peer.nodeId) continue;
    const address = laneAddress(peer.addresses, peer.lanes[member.diskId]);
    if (address) member.moved(address.host, address.port);
  }
}
