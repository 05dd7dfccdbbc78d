import t from 'tap';
import { BoundedTurns } from '../src/agent/bounded-turns.ts';

t.test('so many of one key at once, the others in their order', async (t) => {
  const turns = new BoundedTurns(2);
  const begun: string[] = [];
  const finish = new Map<string, (error?: Error) => void>();
  const start = (key: string, name: string): Promise<void> =>
    turns.run(key, () => {
      begun.push(name);
      return new Promise<void>((resolve, reject) => {
        finish.set(name, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
    });
  const a = start('n1', 'a');
  const b = start('n1', 'b');
  const c = start('n1', 'c');
  const d = start('n1', 'd');
  const other = start('n2', 'other');
  await Promise.resolve();
  t.same(begun, ['a', 'b', 'other'], 'other keys do not wait');

  finish.get('b')?.(new Error('it failed'));
  await t.rejects(b, { message: 'it failed' });
  t.same(begun, ['a', 'b', 'other', 'c'], 'a turn that failed is over, too');

  finish.get('a')?.();
  await a;
  t.same(begun, ['a', 'b', 'other', 'c', 'd']);
  for (const name of ['c', 'd', 'other']) finish.get(name)?.();
  await Promise.all([c, d, other]);

  const again = start('n1', 'again');
  await Promise.resolve();
  t.equal(begun.at(-1), 'again', 'a turn that nobody waited for is free again');
  finish.get('again')?.();
  await again;
});
