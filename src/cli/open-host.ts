// From what a plan is to be done to, to a Host: the source words of --from, and the machine that a plan or a journal names.
//
//   --from SOURCE              that one
//   none, planned on a guest   the guest by the name that the plan has for it
//   none, planned on Linux     this machine
//   none, planned on a capture a usage error: a capture cannot be acted on
//
// This machine is written to with --apply only, typed out; a guest by whoever reaches its sockets.

import { err, ok, type Result } from '#base/result';
import type { Host } from '#control/host';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { kindOfSource, LIVE_FORMS } from './live-source.ts';

const usage = (sentence: string): Result<never, Complaint> => err({ exit: EXIT.USAGE, sentence });

/** @param named  the host of a plan or of a journal. @returns what --from would say */
export function sourceOf(
  from: string | undefined,
  named: { readonly kind: string; readonly name: string },
): Result<string, Complaint> {
  const source = from ?? (named.kind === 'linux' ? 'host' : named.name);
  const kind = kindOfSource(source);
  if (!kind.ok) return kind;
  if (kind.value !== 'path') return ok(source);
  return from === undefined
    ? usage(`the plan was made on a capture (${named.name}); say on which machine to do it: --from ${LIVE_FORMS}`)
    : usage(`${from} is a capture, which cannot be acted on; a machine that runs is ${LIVE_FORMS}`);
}

/** Nothing is connected yet. @param how  apply: --apply was typed; dryRun: nothing will be written anyway */
export function openHost(
  io: Io,
  source: string,
  how: { readonly apply: boolean; readonly dryRun: boolean },
): Result<Host, Complaint> {
  if (source === 'host' && !how.apply && !how.dryRun)
    return usage(
      'this would change the machine that dimmer runs on: say so with --apply, or look first with --dry-run',
    );
  if (io.openHost === undefined || io.later === undefined)
    return err({ exit: EXIT.UNSUPPORTED, sentence: `${source}: a machine is changed by a process of its own` });
  return io.openHost(source, { apply: how.apply });
}
