// The examples in deploy/docker say what this plug-in takes.
import { readFileSync } from 'node:fs';
import { parseYaml } from '@stor/runtime';
import t from 'tap';
import { parseVolumeOptions } from '../src/core/volume-options.ts';
import { createOrder } from '../src/core/volume-orders.ts';

interface ComposeFile {
  services: Record<string, { volumes?: (string | { source?: string })[] }>;
  volumes: Record<string, { driver: string; driver_opts?: Record<string, string> }>;
}

for (const name of ['compose.yaml', 'stack.yaml']) {
  t.test(`deploy/docker/${name}`, async (t) => {
    const file = new URL(`../../../deploy/docker/${name}`, import.meta.url);
    const { services, volumes } = parseYaml(readFileSync(file, 'utf8'), name) as ComposeFile;
    const used = Object.values(services)
      .flatMap((service) => service.volumes ?? [])
      .map((each) => (typeof each === 'string' ? (each.split(':')[0] ?? '') : (each.source ?? '')));
    for (const [volume, { driver, driver_opts: options = {} }] of Object.entries(volumes)) {
      t.equal(driver, 'stor');
      t.ok(used.includes(volume), `${volume} is used`);
      for (const value of Object.values(options)) t.type(value, 'string', 'as Docker wants it');
      t.doesNotThrow(() => createOrder(volume, parseVolumeOptions(options)));
    }
  });
}
