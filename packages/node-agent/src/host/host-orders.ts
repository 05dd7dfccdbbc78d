import type { HostAnswer, HostedDevice, HostOrder } from '@stor/control-plane';
import { fileSystems, type DeviceUser, type HostDevice, type HostVolumes } from '@stor/host-attach';
import { StorError } from '@stor/protocol';

/** Whoever asks by the API is a person with storctl, or acts like one. */
const user: DeviceUser = 'storctl';

/** Carries out what the API asks of this host; see AgentPort.orderHost. */
export async function orderHost(
  host: HostVolumes,
  order: HostOrder,
  signal: AbortSignal,
): Promise<HostAnswer> {
  const { volume, readOnly } = order;
  switch (order.type) {
    case 'attach':
      return one(await host.attach({ volume, user, readOnly }, signal));
    case 'detach':
      await detach(host, order, signal);
      return none();
    case 'mount':
      return one(await mount(host, order, signal));
    case 'unmount':
      await unmount(host, order, signal);
      return none();
    case 'grow':
      return one(await host.grow(volume, signal));
    case 'list':
      return { devices: host.list().map(shown), checks: [] };
    case 'check':
      return { devices: [], checks: await host.checks(signal) };
    default:
      // of a newer node
      throw new StorError(
        'FAILED_PRECONDITION',
        `this agent does not know the order ${JSON.stringify(order.type satisfies never)}`,
      );
  }
}

/** What a container uses is not taken away from it by mistake. */
async function detach(host: HostVolumes, order: HostOrder, signal: AbortSignal): Promise<void> {
  const { volume, force } = order;
  const device = find(host, volume);
  if (device && !device.users.includes(user) && !force) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${device.volume} is a device for ${device.users.join(' and ')}: stop what uses it there, or use --force, with which its requests fail`,
    );
  }
  await host.detach({ volume, user, force }, signal);
}

async function mount(
  host: HostVolumes,
  order: HostOrder,
  signal: AbortSignal,
): Promise<HostDevice> {
  const { volume, target, options, formatOptions, readOnly } = order;
  const fileSystem = fileSystems.find((each) => each === order.fileSystem);
  if (fileSystem === undefined && order.fileSystem !== '') {
    throw new StorError(
      'INVALID_ARGUMENT',
      `file system ${JSON.stringify(order.fileSystem)} is none that is known: use ${fileSystems.join(' or ')}`,
    );
  }
  const kind = fileSystem === undefined ? {} : { fileSystem };
  const made = await host.mount(
    { ...{ volume, user, target, options, formatOptions, readOnly }, ...kind },
    signal,
  );
  const device = host.list().find(({ mounts }) => mounts.some((at) => at.target === made.target));
  if (device) return device;
  throw new StorError('ABORTED', `volume ${volume} was unmounted again meanwhile`);
}

async function unmount(host: HostVolumes, order: HostOrder, signal: AbortSignal): Promise<void> {
  const { volume, target } = order;
  if (target !== '') {
    await host.unmount({ target, user }, signal);
    return;
  }
  const mounts = find(host, volume)?.mounts ?? [];
  // of one mounted within another, the inner one goes first
  const targets = mounts.filter((at) => at.user === user).map((at) => at.target);
  for (const each of targets.sort().reverse()) {
    await host.unmount({ target: each, user }, signal);
  }
}

function find(host: HostVolumes, volume: string): HostDevice | null {
  const isIt = (device: HostDevice): boolean =>
    device.volumeId === volume || device.volume === volume;
  return host.list().find(isIt) ?? null;
}

function one(device: HostDevice): HostAnswer {
  return { devices: [shown(device)], checks: [] };
}

function none(): HostAnswer {
  return { devices: [], checks: [] };
}

function shown(device: HostDevice): HostedDevice {
  const { users, mounts, failure } = device;
  return {
    ...device,
    users: [...users],
    mounts: mounts.map((at) => ({ ...at, options: [...at.options] })),
    failure: failure ?? '',
  };
}
