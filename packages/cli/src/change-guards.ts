import type { Command } from 'commander';
import { isChange, StorError } from '@stor/protocol';
import type { StorApi } from '@stor/protocol';

/** Verbs that make something: there is no version of it yet. */
const making = new Set([
  'volume create',
  'volume clone',
  'volume snapshot',
  'snapshot create',
  'disk add',
  'pool set',
  'scrub set',
  'cluster update',
  'policy create',
]);

/** Verbs that change an object that exists. */
const changing = new Set([
  'node label',
  'node cordon',
  'node uncordon',
  'node drain',
  'node evacuate',
  'node decommission',
  'node maintenance',
  'node forget',
  'disk evacuate',
  'disk rm',
  'disk set',
  'volume update',
  'volume resize',
  'volume rename',
  'volume move',
  'volume move-primary',
  'volume fence',
  'volume recover',
  'volume attach',
  'volume detach',
  'volume mount',
  'volume unmount',
  'volume publish',
  'volume unpublish',
  'volume rollback',
  'volume rm',
  'volume undelete',
  'snapshot rm',
  'policy update',
  'policy rm',
  'tenant set',
  'tenant rm',
]);

/** Gives every verb that changes something `--request-id`, and `--if-version` where it has a meaning. */
export function addGuardOptions(program: Command): void {
  for (const noun of program.commands) {
    for (const verb of noun.commands) {
      const name = `${noun.name()} ${verb.name()}`;
      if (!making.has(name) && !changing.has(name)) continue;
      verb.option('--request-id <id>', 'sent again with the same id, it is done once');
      if (!changing.has(name)) continue;
      verb.option('--if-version <n>', 'only if its resourceVersion is still this one');
      verb.hook('preAction', () => {
        checkOneObject(verb);
      });
    }
  }
}

function checkOneObject(verb: Command): void {
  const objects: unknown = verb.processedArgs[0];
  const { ifVersion } = verb.opts<{ ifVersion?: string }>();
  if (ifVersion === undefined || !Array.isArray(objects) || objects.length < 2) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `--if-version is about one object, and ${objects.length} are named: run the command for each`,
  );
}

/** The API with what `--if-version` and `--request-id` say added to its changes. INVALID_ARGUMENT. */
export function withGuards<A extends StorApi>(api: A, globals: Record<string, unknown>): A {
  const version = parseVersion(globals['ifVersion']);
  const { requestId } = globals;
  if (version === null && typeof requestId !== 'string') return api;
  let changes = 0;
  const guarded = (method: string, request: object): object => {
    if (!isChange(method)) return request;
    changes += 1;
    const first = changes === 1;
    return {
      ...request,
      ...(version !== null && first ? { resourceVersion: version } : {}),
      // a command that makes several changes has one id, its changes must have each their own
      ...(typeof requestId === 'string'
        ? { requestId: first ? requestId : `${requestId}.${changes}` }
        : {}),
    };
  };
  return new Proxy(api, {
    get: (target, method) => {
      const value: unknown = Reflect.get(target, method, target);
      if (typeof value !== 'function' || typeof method !== 'string') return value;
      return (request: object, options: unknown): unknown =>
        value.call(target, guarded(method, request), options) as unknown;
    },
  });
}

function parseVersion(text: unknown): number | null {
  if (typeof text !== 'string') return null;
  const version = /^[0-9]{1,15}$/.test(text) ? Number(text) : 0;
  if (version > 0) return version;
  throw new StorError(
    'INVALID_ARGUMENT',
    `--if-version ${JSON.stringify(text)} is not valid: give metadata.resourceVersion, as "-o json" shows it`,
  );
}
