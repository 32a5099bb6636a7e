// Rehearsal of a plan for --dry-run: the machine is captured as it is now, and the very executor that would act on it acts on
// a twin of it, by a virtual clock. What the twin refuses, the machine would most likely refuse.
//
//   Host ── capture ──> Twin ── fork ──> twin host ── execute(plan) ──> report
//
// Not tried: virtio-mem and balloon (a guest's driver decides), huge pages; without page flags nothing. What was not tried is
// said, never passed off as tried.

import { err, ok, type Result } from '#base/result';
import { execute } from '#control/executor';
import type { Host, Limits } from '#control/host';
import type { ExecutionReport } from '#control/report';
import { twinHost } from '#hosts/twin/twin-host';
import { toBlockId } from '#mm/index';
import { type Action, hashLines, type Plan, stateLines } from '#plan/index';
import { buildTwin } from '#twin/index';
import { releaseSoft } from '#twin/verdict';

const TRIED: readonly Action['do'][] = [
  'offline-block',
  'online-block',
  'add-dimm',
  'remove-dimm',
  'drop-caches',
  'compact',
  'auto-online',
];

/** @returns the report of the execution on the copy; one sentence where it could not be tried. Cost: a capture, seconds */
export async function rehearsePlan(plan: Plan, host: Host, limits: Limits): Promise<Result<ExecutionReport, string>> {
  const actions = plan.units.flatMap((u) => u.steps.map((s) => s.action));
  const untried = actions.find((a) => !TRIED.includes(a.do));
  if (untried !== undefined) return err(`${untried.do} is not something that a copy can try`);
  const seen = await host.observe(limits);
  if (!seen.ok) return err(seen.error.sentence);
  const captured = await host.capture(limits);
  if (!captured.ok) return err(captured.error.sentence);
  const twin = buildTwin(captured.value);
  if (!twin.ok) return err(twin.error.message);
  if (twin.value.level === 'counters') return err('page flags are not readable: nobody knows who holds which page');
  const h = seen.value.hypervisor;
  const machine = twin.value.machine.fork();
  // As for a verdict: what may be free on a per-CPU list is taken to be free, where it would have to go.
  for (const a of actions) if (a.do === 'offline-block') releaseSoft(machine, toBlockId(a.block));
  const copy = twinHost(machine, {
    hypervisor: h === undefined ? 'none' : 'qemu',
    dimms: (h?.dimms ?? []).map(({ id, memdev, addr, size, node }) => ({ id, memdev, addr, bytes: size, node })),
    ...(h?.maxBytes === undefined ? {} : { maxBytes: h.maxBytes }),
    ...(h?.slots === undefined ? {} : { slots: h.slots.total }),
  });
  const now = await copy.observe(limits);
  if (!now.ok) return err(now.error.sentence);
  // The machine itself has been compared already; what a copy leaves out (virtio-mem, balloon) is no difference.
  const lines = stateLines(now.value);
  const { signal } = limits;
  return ok(
    await execute({ ...plan, assumes: { hash: hashLines(lines), lines } }, copy, {
      journal: { append: () => Promise.resolve(ok(undefined)) },
      clock: copy.clock,
      signal: signal ?? new AbortController().signal,
    }),
  );
}
