import { StorError } from '@stor/protocol';
import type { StorctlIo } from './command-context.ts';

/**
 * Goes on only when `--yes` was given or a person says so. Throws UNSAFE where nobody can be asked,
 * ABORTED after a no.
 */
export async function confirmUnsafe(
  io: StorctlIo,
  yes: boolean,
  texts: {
    /** `Reduce volume db to 1 replica` */
    action: string;
    /** what it means, one sentence each */
    risks: readonly string[];
    /** `volume db was not changed` */
    left: string;
  },
): Promise<void> {
  if (yes) return;
  const risks = texts.risks.join('; ');
  if (!io.isTty || io.ask === undefined) {
    throw new StorError(
      'UNSAFE',
      `${texts.left}, because it is not safe: ${risks}. Give --yes to do it all the same`,
    );
  }
  const answer = await io.ask(`${texts.action}? ${capital(risks)}. [y/N] `);
  if (/^y(es)?$/i.test(answer.trim())) return;
  throw new StorError('ABORTED', texts.left);
}

function capital(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
}

/**
 * As `confirmUnsafe`, for what destroys data. Throws INVALID_ARGUMENT where nobody can be asked,
 * ABORTED after a no. `what`: `snapshot db@monday`; `lost`: a sentence.
 */
export async function confirmRemoval(
  io: StorctlIo,
  yes: boolean,
  { what, lost }: { what: string; lost: string },
): Promise<void> {
  if (yes) return;
  if (!io.isTty || io.ask === undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `deleting ${what} destroys its data and there is no terminal to ask on: give -y to confirm`,
    );
  }
  const answer = await io.ask(`Delete ${what}? ${lost} [y/N] `);
  if (/^y(es)?$/i.test(answer.trim())) return;
  throw new StorError('ABORTED', `${what} was not deleted`);
}
