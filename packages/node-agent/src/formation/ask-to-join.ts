import type { RpcTransport } from '@stor/control-plane';
import { hasCode, StorError, type JoinAnswer, type StorApi } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';

type JoinRequest = Parameters<StorApi['joinCluster']>[0];

/** A join is tried for so long before it is given up (ms): nodes may be starting, too. */
const joinMs = 60_000;
const retryMs = 1_000;
const callMs = 10_000;
const connectMs = 2_000;
/** For the question whose cluster an address is of (ms): a restart needs nobody. */
const glanceMs = 1_500;

export interface JoinHost {
  rpc: RpcTransport;
  clock: Clock;
  logger: Logger;
}

/**
 * Asks the nodes, one after the other and again, until one of them has let this one in or refused
 * it. Errors: as StorApi.joinCluster; UNAVAILABLE when nobody answered in time.
 */
export async function askToJoin(
  host: JoinHost,
  addresses: readonly string[],
  request: JoinRequest,
): Promise<JoinAnswer> {
  const endMs = host.clock.monotonicMs() + joinMs;
  let last = '';
  for (;;) {
    for (const address of addresses) {
      const answer = await askOne(host, address, request);
      if ('clusterId' in answer) return answer;
      if (last !== answer.notYet) {
        host.logger.warn({ address, reason: answer.notYet }, 'cannot join yet');
      }
      last = answer.notYet;
    }
    if (host.clock.monotonicMs() > endMs) {
      throw new StorError(
        'UNAVAILABLE',
        `the cluster did not let this node in within ${joinMs / 1000} s: ${last}`,
      );
    }
    await new Promise<void>((resolve) => void host.clock.after(retryMs, resolve));
  }
}

async function askOne(
  { rpc }: JoinHost,
  address: string,
  request: JoinRequest,
): Promise<JoinAnswer | { notYet: string }> {
  const channel = rpc.channel(address, 'stor');
  try {
    const outcome = await channel.call({
      method: 'JoinCluster',
      request,
      timeoutMs: callMs,
      connectTimeoutMs: connectMs,
    });
    if (outcome.type === 'answered') return outcome.response as JoinAnswer;
    if (outcome.type !== 'refused') {
      return { notYet: `${address} does not answer: is the agent there running?` };
    }
    const { error } = outcome;
    if (hasCode(error, 'UNAVAILABLE', 'OUTCOME_UNKNOWN', 'TIMEOUT')) {
      return { notYet: error.message };
    }
    throw StorError.from(error);
  } finally {
    channel.close();
  }
}

/** The id of the cluster that one of the addresses is of; null when none answers. */
export async function clusterAt(
  { rpc }: JoinHost,
  addresses: readonly string[],
): Promise<string | null> {
  for (const address of addresses) {
    const channel = rpc.channel(address, 'stor');
    try {
      const outcome = await channel.call({
        method: 'GetClusterStatus',
        request: {},
        timeoutMs: glanceMs,
        connectTimeoutMs: glanceMs,
      });
      if (outcome.type === 'answered') {
        return (outcome.response as { clusterId: string }).clusterId;
      }
    } finally {
      channel.close();
    }
  }
  return null;
}
