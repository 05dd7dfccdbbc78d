import { StorError } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { fileSystemLabels, fileSystemOptionsOf } from '../src/core/file-system-labels.ts';
import { labelTextOf, textOfLabel } from '../src/core/label-text.ts';
import { similarName, wordDistance } from '../src/core/similar-name.ts';
import { optionNames, parseVolumeOptions } from '../src/core/volume-options.ts';
import { readDefaults } from '../src/docker-plugin.ts';

function errorOf(options: Record<string, string>): string {
  try {
    parseVolumeOptions(options);
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('every option is read', async (t) => {
  t.same(parseVolumeOptions({}), {});
  t.same(
    parseVolumeOptions({
      size: '20GiB',
      replicas: ' 2 ',
      fs: 'xfs',
      policy: 'gold',
      'failure-mode': 'threshold=2',
      'qos.iops': '5k',
      'qos.read-bps': '100MiB',
      'qos.burst': '2x/30s',
      'qos.min-iops': 'off',
      labels: 'app=db,tier=',
      'mkfs-options': '-m reflink=1  -K',
      'mount-options': 'noatime, logbsize=256k',
    }),
    {
      sizeBytes: 20 * 2 ** 30,
      replicas: 2,
      fileSystem: 'xfs',
      policyName: 'gold',
      failureMode: 'threshold=2',
      qos: { iops: 5000, readBps: 100 * 2 ** 20, burst: { factor: 2, seconds: 30 }, minIops: 0 },
      labels: { app: 'db', tier: '' },
      formatOptions: ['-m', 'reflink=1', '-K'],
      mountOptions: ['noatime', 'logbsize=256k'],
    },
  );
  t.same(parseVolumeOptions({ from: 'db' }), { from: { volume: 'db', snapshot: '' } });
  t.same(parseVolumeOptions({ from: 'db@mo' }), { from: { volume: 'db', snapshot: 'mo' } });
});

t.test('what is wrong is refused with what may be said', async (t) => {
  const wrong: [Record<string, string>, RegExp][] = [
    [{ size: '' }, /size ""/],
    [{ size: '0' }, /size=0 is nothing/],
    [{ size: '-1GiB' }, /size "-1GiB"/],
    [{ replicas: '0' }, /1 to 5 replicas/],
    [{ replicas: '2.5' }, /1 to 5 replicas/],
    [{ fs: 'btrfs' }, /there are ext4 and xfs/],
    [{ policy: 'a b' }, /policy name/],
    [{ 'failure-mode': 'none' }, /hard, soft, alwayson/],
    [{ 'qos.iops': 'many' }, /iops=many is not valid/],
    [{ 'qos.iops': '100', 'qos.read-iops': '200' }, /read-iops=200 is above iops=100/],
    [{ 'qos.io': '5' }, /did you mean qos\.iops/],
    [{ labels: '' }, /"" is no label/],
    [{ labels: 'app' }, /"app" is no label/],
    [{ labels: 'a=1,a=2' }, /label a is given twice/],
    [{ labels: 'a=b c' }, /value "b c" of label a/],
    [{ labels: 'docker.stor/fs=xfs' }, /not yours to set/],
    [{ from: '' }, /volume name ""/],
    [{ from: 'db@' }, /snapshot name ""/],
    [{ from: 'a/b@c' }, /volume name/],
    [{ 'mkfs-options': '' }, /are empty/],
    [{ 'mkfs-options': '/dev/sda' }, /"\/dev\/sda" is not taken/],
    [{ 'mkfs-options': '-m 1 sda' }, /"sda" is not taken/],
    [{ 'mkfs-options': '-F' }, /-F is not taken: a file system is made only on an empty/],
    [{ 'mkfs-options': '-d $(x)' }, /is not taken/],
    [{ 'mount-options': '' }, /"" is not taken/],
    [{ 'mount-options': 'noatime,ro' }, /ro is not taken: .* docker run -v db:\/data:ro/],
    [{ 'mount-options': 'bind' }, /"bind" is not taken/],
    [{ 'mount-options': 'context="x y"' }, /is not taken/],
    [{ 'mount-options': 'x'.repeat(200) }, /too long: .* 128 characters/],
    [{ encryption: 'on' }, /not supported yet/],
    [{ encrypted: 'true' }, /not supported yet/],
    [{ 'backup-every': '1h' }, /not supported yet/],
    [{ filesystem: 'xfs' }, /did you mean fs\?/],
    [{ Size: '1GiB' }, /did you mean size\?/],
    [{ replica: '3' }, /did you mean replicas\?/],
    [{ __proto__: 'x', constructor: 'x' }, /"constructor" is not known: there are size, replicas/],
  ];
  for (const [options, pattern] of wrong) {
    t.match(errorOf(options), pattern, JSON.stringify(options));
    t.match(errorOf(options), /^INVALID_ARGUMENT/);
  }
  t.match(errorOf({ nonsense: '1' }), new RegExp(optionNames.join(', ')));
  t.notMatch(errorOf({ nonsense: '1' }), /did you mean/);
});

t.test('defaults say nothing of a source', async (t) => {
  t.same(readDefaults({ size: '1GiB' }), { sizeBytes: 2 ** 30 });
  t.throws(() => readDefaults({ from: 'db' }), /from is no default/);
});

t.test('what mkfs and mount are told goes through labels unchanged', async (t) => {
  const options = { 'mkfs-options': '-E a=1,b=2 -L x', 'mount-options': 'noatime,data=ordered' };
  const { formatOptions = [], mountOptions = [] } = parseVolumeOptions(options);
  const labels = fileSystemLabels({ fileSystem: 'ext4', formatOptions, mountOptions });
  t.same(fileSystemOptionsOf(labels), { fileSystem: 'ext4', formatOptions, mountOptions });
  t.equal(labels['docker.stor/mount-options'], 'noatime:2Cdata:3Dordered');
  t.same(fileSystemOptionsOf({}), {});
  const spoilt = { 'docker.stor/fs': 'zfs', 'docker.stor/mount-options': 'a:zz' };
  t.same(fileSystemOptionsOf(spoilt), {}, 'what cannot be read says nothing');
  const ascii = fc.string({ unit: 'grapheme-ascii' });
  fc.assert(
    fc.property(ascii, (text) => {
      const value = labelTextOf(text);
      return /^[A-Za-z0-9_.:/-]*$/.test(value) && textOfLabel(value) === text;
    }),
  );
});

t.test('the distance of words is that of the plain definition', async (t) => {
  const plain = (one: string, other: string): number => {
    if (one === '' || other === '') return one.length + other.length;
    if (one[0] === other[0]) return plain(one.slice(1), other.slice(1));
    const [a, b] = [one.slice(1), other.slice(1)];
    return 1 + Math.min(plain(a, other), plain(one, b), plain(a, b));
  };
  const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 });
  fc.assert(fc.property(word, word, (a, b) => wordDistance(a, b) === plain(a, b)));
  t.equal(similarName('sizze', ['size', 'fs']), 'size');
  t.equal(similarName('xyz', ['size', 'fs']), null);
});
