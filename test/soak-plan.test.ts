import { SeededRandom } from '../packages/runtime/src/testing/index.ts';
import t from 'tap';
import { faultKinds } from '../benchmarks/src/namespaces/faults.ts';
import {
  aims,
  FaultPlan,
  type PlannedFault,
  type Targets,
} from '../benchmarks/src/soak/plan-faults.ts';

const everybody = { primary: 0, leader: 1, allowed: [0, 1, 2], nodes: 3 };

function draw(seed: number, count: number, targets: Targets = everybody): PlannedFault[] {
  const plan = new FaultPlan(new SeededRandom(seed));
  return Array.from({ length: count }, () => plan.next(targets)).filter((fault) => fault !== null);
}

t.test('a third of the faults is meant for each, and every kind comes', async (t) => {
  const faults = draw(1, 130);
  t.equal(faults.length, 130);
  for (const aim of aims) {
    const share = faults.filter((fault) => fault.aim === aim).length / faults.length;
    t.ok(Math.abs(share - 1 / 3) < 0.01, `${aim}: ${share}`);
  }
  for (const kind of faultKinds) {
    t.equal(faults.filter((fault) => fault.kind === kind).length, 130 / faultKinds.length, kind);
  }
  for (const { aim, node, other } of faults) {
    if (aim !== 'anybody') t.equal(node, aim === 'primary' ? 0 : 1);
    t.not(other, node);
  }
});

t.test('a node that is spared is never hit, and what it missed is made good', async (t) => {
  const plan = new FaultPlan(new SeededRandom(2));
  for (let count = 0; count < 20; count += 1) {
    const fault = plan.next({ ...everybody, allowed: [1, 2] });
    t.not(fault?.node, 0);
    t.not(fault?.aim, 'primary');
    t.not(fault?.kind, 'kill-all', 'it would hit the spared one too');
  }
  const later = Array.from({ length: 10 }, () => plan.next(everybody)?.aim);
  t.same(new Set(later), new Set(['primary']));
});

t.test('nobody to hit, nothing planned', async (t) => {
  t.same(draw(3, 5, { ...everybody, allowed: [] }), []);
  t.equal(draw(3, 5, { primary: null, leader: null, allowed: [2], nodes: 3 }).length, 5);
});

t.test('the same seed plans the same', async (t) => {
  t.same(draw(7, 50), draw(7, 50));
  t.notSame(draw(7, 50), draw(8, 50));
});
