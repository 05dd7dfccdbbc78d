import crypto from 'node:crypto';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import process from 'node:process';

type Functions = Record<string, (...args: unknown[]) => unknown>;

/** What belongs to the host: time, chance, files and sockets. */
const watched: [string, object, string[]][] = [
  ['Date', Date, ['now']],
  ['performance', performance, ['now']],
  ['Math', Math, ['random']],
  ['global', globalThis, ['setTimeout', 'setInterval', 'setImmediate']],
  ['process', process, ['hrtime']],
  ['crypto', crypto, ['randomBytes', 'randomUUID', 'randomInt', 'randomFillSync']],
  ['AbortSignal', AbortSignal, ['timeout', 'any']],
  ['net', net, ['connect', 'createConnection', 'createServer']],
  [
    'fs',
    fs,
    [
      'openSync',
      'open',
      'readFileSync',
      'writeFileSync',
      'existsSync',
      'mkdirSync',
      'statSync',
    ].concat(['read', 'write', 'readSync', 'writeSync', 'fdatasync', 'fdatasyncSync', 'rmSync']),
  ],
  [
    'fs.promises',
    fs.promises,
    ['open', 'mkdir', 'readFile', 'writeFile', 'rename', 'rm', 'unlink'],
  ],
];

/** Code of the product, but for the fakes that it has for tests. */
const product = /packages\/[^/]+\/src\/(?!testing\/)/;

/** Notes which functions of the host the product calls while it watches. */
export class HostUse {
  readonly found: string[] = [];
  readonly #undo: (() => void)[] = [];

  watch(): void {
    for (const [name, owner, methods] of watched) {
      const functions = owner as Functions;
      for (const method of methods) {
        const real = functions[method];
        if (!real) throw new Error(`there is no ${name}.${method}`);
        functions[method] = this.#noting(`${name}.${method}`, real, owner);
        this.#undo.push(() => {
          functions[method] = real;
        });
      }
    }
    syncBuiltinESMExports();
  }

  stop(): void {
    for (const undo of this.#undo.splice(0)) undo();
    syncBuiltinESMExports();
  }

  #noting(name: string, real: Functions[string], owner: object): Functions[string] {
    const noting = (...args: unknown[]): unknown => {
      const caller = new Error().stack?.split('\n')[2] ?? '';
      if (product.test(caller)) this.found.push(`${name} ${caller.trim()}`);
      return real.apply(owner, args);
    };
    return Object.assign(noting, real);
  }
}
