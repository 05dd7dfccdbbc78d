import type { Test } from 'tap';
import type { DeviceProcesses, DeviceSpec } from '../device/device-processes.ts';

/** What the suite needs of whoever runs it. */
export interface DeviceProcessesTarget {
  processes: DeviceProcesses;
  /** of an export that is served, not larger than `exportBytes` */
  spec: (id: string) => DeviceSpec;
  /** size of the export, which is more than twice that of `spec` (bytes) */
  exportBytes: number;
  /** Opens the block device of the spec, until the returned function is called. */
  use: (spec: DeviceSpec, path: string) => Promise<() => Promise<void>>;
  /** Throws unless nothing of the device is on this host. */
  nothingLeft: (spec: DeviceSpec) => void;
  /** Ends the process of a device without a word. */
  kill: (spec: DeviceSpec, pid: number) => Promise<void>;
}

type OpenTarget = (t: Test) => Promise<DeviceProcessesTarget>;

const { signal } = new AbortController();

/** What every form of `DeviceProcesses` keeps to. */
export function deviceProcessesSuite(t: Test, open: OpenTarget): void {
  lifeTest(t, open);
  useTest(t, open);
  failedStartTest(t, open);
  killedTest(t, open);
}

function lifeTest(t: Test, open: OpenTarget): void {
  t.test('a device is started, found, changed and taken away', async (t) => {
    const { processes, spec: specOf, exportBytes, nothingLeft } = await open(t);
    const spec = specOf('one');
    const { id, dir } = spec;
    t.equal(await processes.find(id, dir, signal), null);
    await processes.stop(id, dir, {}, signal);
    const state = await processes.start(spec, signal);
    t.match(state, { id, means: spec.means, sizeBytes: spec.sizeBytes, readOnly: false });
    t.match(state, { path: /^\/dev\/(loop|nbd)\d+$/, failure: null });
    t.type(state.address, 'string');
    t.ok(state.pid > 0);
    t.strictSame(await processes.find(id, dir, signal), state);
    await t.rejects(processes.start(spec, signal), { code: 'ALREADY_EXISTS' });
    t.strictSame(await processes.find(id, dir, signal), state, 'nothing has happened to it');

    await processes.setAddresses(id, dir, [...spec.addresses], signal);
    await t.rejects(processes.setAddresses(id, dir, [], signal), { code: 'INVALID_ARGUMENT' });
    const larger = 2 * spec.sizeBytes;
    t.strictSame(await processes.grow(id, dir, larger, signal), { ...state, sizeBytes: larger });
    t.equal((await processes.grow(id, dir, larger, signal)).sizeBytes, larger, 'again');
    await t.rejects(processes.grow(id, dir, spec.sizeBytes, signal), { code: 'INVALID_ARGUMENT' });
    await t.rejects(processes.grow(id, dir, 2 * exportBytes, signal), { code: 'UNAVAILABLE' });
    t.equal((await processes.find(id, dir, signal))?.sizeBytes, larger);

    await processes.stop(id, dir, {}, signal);
    t.equal(await processes.find(id, dir, signal), null);
    await processes.stop(id, dir, {}, signal);
    nothingLeft(spec);
    await t.rejects(processes.grow(id, dir, larger, signal), { code: 'NOT_FOUND' });
    await t.rejects(processes.setAddresses(id, dir, spec.addresses, signal), { code: 'NOT_FOUND' });
  });
}

function useTest(t: Test, open: OpenTarget): void {
  t.test('a device that is used stays, unless it is forced away', async (t) => {
    const { processes, spec: specOf, use, nothingLeft } = await open(t);
    const spec = specOf('used');
    const { id, dir } = spec;
    const state = await processes.start(spec, signal);
    const release = await use(spec, state.path);
    await t.rejects(processes.stop(id, dir, {}, signal), {
      code: 'IN_USE',
      message: new RegExp(`${state.path} is in use: `),
    });
    t.strictSame(await processes.find(id, dir, signal), state, 'it goes on');
    await processes.stop(id, dir, { force: true }, signal);
    t.equal(await processes.find(id, dir, signal), null);
    await release();
    nothingLeft(spec);
  });
}

function failedStartTest(t: Test, open: OpenTarget): void {
  t.test('a start that fails leaves nothing', async (t) => {
    const { processes, spec: specOf, exportBytes, nothingLeft } = await open(t);
    const spec = specOf('none');
    const fails = async (change: Partial<DeviceSpec>, code: string): Promise<void> => {
      await t.rejects(processes.start({ ...spec, ...change }, signal), { code });
      nothingLeft(spec);
      t.equal(await processes.find(spec.id, spec.dir, signal), null);
    };
    // no such kernel, or too large with it too
    await fails({ means: 'nbd-kernel', sizeBytes: 2 * exportBytes }, 'FAILED_PRECONDITION');
    await fails({ sizeBytes: 2 * exportBytes }, 'FAILED_PRECONDITION');
    for (const id of ['', 'A', 'a/b', 'x'.repeat(33)]) {
      await t.rejects(processes.start({ ...spec, id }, signal), { code: 'INVALID_ARGUMENT' });
    }
    const stop = new AbortController();
    stop.abort();
    await t.rejects(processes.start(spec, stop.signal), { code: 'ABORTED' });
    nothingLeft(spec);
    await processes.start(spec, signal);
    await processes.stop(spec.id, spec.dir, {}, signal);
    nothingLeft(spec);
  });
}

function killedTest(t: Test, open: OpenTarget): void {
  t.test('a device whose process was killed is none, and can be made again', async (t) => {
    const { processes, spec: specOf, kill, nothingLeft } = await open(t);
    const spec = { ...specOf('killed'), readOnly: true };
    const { id, dir } = spec;
    const other = specOf('other');
    const kept = await processes.start(other, signal);
    const { pid, path } = await processes.start(spec, signal);
    await kill(spec, pid);
    t.equal(await processes.find(id, dir, signal), null);
    const third = await processes.start(specOf('third'), signal);
    t.not(third.path, path, "what may still be used under this name is nobody else's device");
    await processes.stop(third.id, dir, {}, signal);
    await processes.stop(id, dir, {}, signal);
    nothingLeft(spec);
    await kill(spec, (await processes.start(spec, signal)).pid);
    const again = await processes.start(spec, signal);
    t.match(again, { readOnly: true, failure: null });
    t.strictSame(await processes.find(other.id, other.dir, signal), kept, 'of others nothing');
    await processes.stop(id, dir, {}, signal);
    await processes.stop(other.id, other.dir, {}, signal);
    for (const gone of [spec, other]) nothingLeft(gone);
  });
}
