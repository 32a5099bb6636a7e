// Agent: qemu-guest-agent inside a guest, whatever carries the requests: its socket (qga.ts) or a command per request
// (command-transport.ts). What is built from its verbs is in qga-verbs.ts: files, commands, memory blocks.
//
// The agent does one thing after the other and may be anything from prompt to gone: a verb that hangs in the kernel (writing
// "offline" to a block with a pinned page) hangs all later ones. So requests have deadlines, and answers that come after
// them are thrown away.
//
// Invariants for both: every request ends within its deadline; a request that was never sent ends as `unreachable`, `denied`,
// `unsupported`, `cancelled` or `closed`, and its sentence says so where it might be doubted; one that may have been done ends
// as `disconnected`, `timeout`, `cancelled`, `protocol` or `closed`. Spec 7.3.

import { errnoOfText } from '#base/errno';
import { err, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { short } from './qmp-port.ts';

export interface Agent {
  readonly name: string;
  /** The `return` member. One at a time: later requests wait their turn, which counts against their deadline. */
  execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, HostFailure>>;
  /** Verbs by name, true where they are switched on; asked once after each sync (guest-info). */
  verbs(limits: Limits): Promise<Result<ReadonlyMap<string, boolean>, HostFailure>>;
  close(): Promise<void>;
}

/**
 * The agent said no. A verb that was switched off is `denied`, an unknown one `unsupported`; all else `refused`, with the errno
 * that the kernel's sentence stands for.
 * @param frozen  the guest's file systems are frozen, for which the agent switches nearly everything off
 */
export function agentRefusal(command: string, error: unknown, frozen = false): Result<never, HostFailure> {
  const { class: name, desc } = (error ?? {}) as { class?: unknown; desc?: unknown };
  if (typeof desc !== 'string')
    return err({
      kind: 'protocol',
      sentence: `the agent answered ${command} with an error that is none`,
      evidence: [short(error)],
    });
  const evidence = [typeof name === 'string' ? `${name}: ${desc}` : desc];
  if (isDisabled(desc)) {
    const sentence =
      frozen || desc.includes('frozen')
        ? `the guest's file systems are frozen (a backup?), and the agent does not run ${command} before they are thawed`
        : `${command} is switched off in the guest's agent: allow it there, in /etc/sysconfig/qemu-ga (BLACKLIST_RPC, ` +
          'BLOCK_RPCS, or --allow-rpcs and --block-rpcs in FILTER_RPC_ARGS) or /etc/qemu/qemu-ga.conf (block-rpcs, ' +
          'allow-rpcs), and restart qemu-guest-agent';
    return err({ kind: 'denied', sentence, evidence });
  }
  if (/^The command \S+ has not been found/.test(desc) || /^command "?\S+ not found/.test(desc))
    return err({
      kind: 'unsupported',
      sentence: `the guest's agent does not know ${command}: it is too old`,
      evidence,
    });
  const errno = errnoOfText(desc);
  return err({
    kind: 'refused',
    sentence: `the guest's agent refused ${command}: ${desc}`,
    ...(errno === undefined ? {} : { errno }),
    evidence,
  });
}

/** "Command guest-exec has been disabled: the command is not allowed"; older: "... disabled for this instance". */
export const isDisabled = (desc: string): boolean => /\bhas been disabled\b/.test(desc);
