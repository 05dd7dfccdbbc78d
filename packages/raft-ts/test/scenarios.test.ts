import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { RaftError, type MemberChange } from '../src/index.ts';
import { ScenarioCluster } from './scenario-cluster.ts';

/**
 * Scenarios with recorded output, in the manner of etcd-io/raft's rafttest. A block is a command,
 * `----`, and what happened, up to an empty line. RAFT_REWRITE=1 records anew; read the diff.
 *
 *   add-nodes COUNT                         all are voters 1, 2, …
 *   set-log ID TERM,TERM,… term=T commit=C  an earlier life
 *   limit NAME=N                            before add-nodes: see RaftLimits
 *   campaign ID | tick ID [N] | propose ID TEXT… | read ID
 *   add-joining ID                          a member with an empty log and no membership
 *   change ID [+ID] [~ID] [-ID] [joint]     voters, learners, who leaves; by the leader ID
 *   transfer ID ID                          from the first, which leads, to the second
 *   members ID…
 *   tick-stabilize ID N                     N times: a tick, then silence
 *   deliver [from=ID] [to=ID] [type=T]      what waits now, in order
 *   drop [from=ID] [to=ID] [type=T]
 *   stabilize [ID…]                         deliver among these until there is silence
 *   hold-saves ID | finish-saves ID         a slow disk
 *   restart ID                              what was not saved is lost
 *   lose ID COUNT                           so many last entries, which it had acknowledged
 *   compact ID keep=N
 *   raft-log ID | status [ID…] | disk ID | items ID | network
 *
 * A command that ends in ` (quiet)` records nothing.
 */
const folder = fileURLToPath(new URL('scenarios/', import.meta.url));
const rewrite = process.env['RAFT_REWRITE'] === '1';

function split(words: string[]): { plain: string[]; options: Record<string, string> } {
  const plain = words.filter((word) => !word.includes('='));
  const options = Object.fromEntries(
    words.filter((word) => word.includes('=')).map((word) => word.split('=', 2)),
  ) as Record<string, string>;
  return { plain, options };
}

function execute(cluster: ScenarioCluster, line: string): void {
  const [verb = '', ...words] = line.split(/\s+/);
  const { plain, options } = split(words);
  const [id = ''] = plain;
  const verbs: Record<string, () => void> = {
    'add-nodes': () => cluster.addNodes(Number(id)),
    'set-log': () => {
      const terms = (plain[1] ?? '').split(',').filter(Boolean).map(Number);
      cluster.setLog(id, terms, Number(options['term']), Number(options['commit']));
    },
    limit: () => {
      for (const [name, value] of Object.entries(options)) {
        Object.assign(cluster.limits, { [name]: Number(value) });
      }
    },
    'add-joining': () => cluster.addJoining(id),
    change: () => {
      const types = { '+': 'addVoter', '~': 'addLearner', '-': 'remove' } as const;
      const changes = plain.slice(1).flatMap((word) => {
        const type = types[word[0] as keyof typeof types] as MemberChange['type'] | undefined;
        return type ? [{ type, id: word.slice(1) }] : [];
      });
      cluster.input(id, (raw) => raw.proposeChange(changes, plain.includes('joint')));
    },
    transfer: () => cluster.input(id, (raw) => raw.transferLeadership(plain[1] ?? '')),
    members: () => {
      for (const each of plain) cluster.members(each);
    },
    campaign: () => cluster.input(id, (raw) => raw.campaign()),
    tick: () => {
      for (let i = 0; i < Number(plain[1] ?? 1); i++) cluster.input(id, (raw) => raw.tick());
    },
    'tick-stabilize': () => {
      for (let i = 0; i < Number(plain[1]); i++) {
        cluster.input(id, (raw) => raw.tick());
        cluster.stabilize([]);
      }
    },
    propose: () => {
      cluster.input(id, (raw) => raw.propose(plain.slice(1).map((text) => Buffer.from(text))));
    },
    read: () => cluster.read(id),
    deliver: () => cluster.deliver(cluster.take(options)),
    drop: () => void cluster.take(options),
    stabilize: () => cluster.stabilize(plain),
    'hold-saves': () => cluster.holdSaves(id),
    'finish-saves': () => cluster.finishSaves(id),
    restart: () => cluster.restart(id),
    lose: () => cluster.lose(id, Number(plain[1])),
    compact: () => cluster.compact(id, Number(options['keep'])),
    'raft-log': () => cluster.log(id),
    status: () => {
      for (const each of plain) cluster.status(each);
    },
    disk: () => cluster.disk(id),
    items: () => cluster.items(id),
  };
  const run = verbs[verb];
  if (!run) throw new Error(`no such verb: ${line}`);
  run();
}

/** The file as it would be if all that it records were to happen. */
function replay(text: string): string {
  const cluster = new ScenarioCluster();
  const blocks = text.trimEnd().split(/\n\n+/);
  return `${blocks.map((block) => replayBlock(cluster, block)).join('\n\n')}\n`;
}

function replayBlock(cluster: ScenarioCluster, block: string): string {
  const lines = block.split('\n');
  const end = lines.indexOf('----');
  const head = end < 0 ? lines : lines.slice(0, end);
  const commands = head.filter((line) => !line.startsWith('#'));
  if (commands.length === 0) return block;
  let quiet = false;
  for (const command of commands) {
    quiet = command.endsWith(' (quiet)');
    try {
      execute(cluster, command.replace(' (quiet)', ''));
    } catch (error) {
      if (!(error instanceof RaftError)) throw error;
      cluster.out.push(`error ${error.code}: ${error.message}`);
    }
  }
  const out = cluster.out.splice(0);
  const recorded = quiet ? [] : out.length > 0 ? out : ['ok'];
  return [...head, '----', ...recorded].join('\n');
}

for (const name of readdirSync(folder).sort()) {
  t.test(name, async (t) => {
    const recorded = readFileSync(folder + name, 'utf8');
    const actual = replay(recorded);
    if (rewrite) writeFileSync(folder + name, actual);
    else t.equal(actual, recorded);
  });
}
