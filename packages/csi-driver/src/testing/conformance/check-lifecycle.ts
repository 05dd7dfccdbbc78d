import type { Test } from 'tap';
import type { CsiVolume } from '../../messages.ts';
import { capability, ConformanceBench } from './target.ts';
import type { AccessKind, ConformanceTarget } from './target.ts';

/** As often as the published conformance tests repeat it. */
const repeats = 10;

export function checkLifecycle(t: Test, target: ConformanceTarget): void {
  for (const kind of ['mount', 'block'] as const) {
    t.test(`a whole life, each call ${repeats} times: ${kind}`, (t) => live(t, target, kind));
  }
  t.test('the same volume from several sides at once', (t) => triesAtOnce(t, target));
}

async function live(t: Test, target: ConformanceTarget, kind: AccessKind): Promise<void> {
  const { controller, node } = target;
  const bench = new ConformanceBench(t, target);
  const each = async <T>(call: string, request: object): Promise<T> => {
    const client = call.startsWith('Node.') ? node : controller;
    let answer = await client.call<T>(call, request);
    for (let time = 1; time < repeats; time++) {
      const again = await client.call<T>(call, request);
      t.same(again, answer, call);
      answer = again;
    }
    return answer;
  };
  const nodeId = await bench.nodeId();
  const volumeCapability = capability(kind);
  const request = bench.request(bench.name('life'), { volumeCapabilities: [volumeCapability] });
  const { volume } = await each<{ volume: CsiVolume }>('Controller.CreateVolume', request);
  const { volumeId, volumeContext } = volume;
  const publish = { volumeId, nodeId, volumeCapability, volumeContext };
  const { publishContext } = await each<{ publishContext: object }>(
    'Controller.ControllerPublishVolume',
    publish,
  );
  const stagingTargetPath = bench.path('stage');
  const stage = { volumeId, stagingTargetPath, volumeCapability, volumeContext, publishContext };
  await each('Node.NodeStageVolume', stage);
  const targetPath = bench.path('target');
  await each('Node.NodePublishVolume', { ...stage, targetPath });
  t.ok(await target.exists(targetPath));
  await each('Node.NodeUnpublishVolume', { volumeId, targetPath });
  t.equal(await target.exists(targetPath), false);
  await each('Node.NodeUnstageVolume', { volumeId, stagingTargetPath });
  await each('Controller.ControllerUnpublishVolume', { volumeId, nodeId });
  await each('Controller.DeleteVolume', { volumeId });
}

/** Each call is answered with what there is, or that it is under way; never twice done. */
async function triesAtOnce(t: Test, target: ConformanceTarget): Promise<void> {
  const { controller } = target;
  const bench = new ConformanceBench(t, target);
  const name = bench.name('race');
  const volume = await bench.volume({}, name);
  const { volumeId } = volume;
  const nodeId = await bench.nodeId();
  const publish = { volumeId, nodeId, volumeCapability: capability('mount') };
  const rivals = bench.name('rivals');
  const outcomes = await Promise.all([
    ...Array.from({ length: 5 }, () =>
      controller.outcome('Controller.CreateVolume', bench.request(rivals)),
    ),
    ...Array.from({ length: 5 }, () =>
      controller.outcome('Controller.ControllerPublishVolume', publish),
    ),
  ]);
  for (const { code } of outcomes) t.ok(code === 'OK' || code === 'ABORTED', code);
  const ids = outcomes.flatMap((outcome) =>
    'answer' in outcome && 'volume' in outcome.answer
      ? [(outcome.answer['volume'] as CsiVolume).volumeId]
      : [],
  );
  t.ok(ids.length >= 1, 'one at least has made it');
  t.equal(new Set(ids).size, 1, 'one volume');
  await bench.volume({}, rivals);
  await controller.call('Controller.ControllerUnpublishVolume', { volumeId, nodeId });
}
