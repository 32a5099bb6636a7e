// Decide: what an observation says about a step whose outcome is not known: the reply was lost, or the executor died.
//
//   effect   expect   under way   setting     ->
//   holds    -        -           -           done    it has happened, whoever says otherwise
//   no       -        yes         -           wait    it is happening: the guest goes on without us
//   no       holds    no          -           redo    it has not happened, or it ended and was taken back
//   no       no       no          yes         redo    a value can be set again, whatever it is now
//   no       no       no          no          undo    the machine is neither before nor after: somebody else's doing
//
//   under way   offline-block      the block is going-offline                                          (lab fact 5)
//               resize-virtio-mem  requested is the target, plugged is not yet
//   setting     resize-virtio-mem, balloon, set-hugepages, auto-online, drop-caches, compact
//
// An observation that cannot tell counts as "no", and so does an effect of no conditions (caches were dropped or not: nothing
// shows it): nothing is believed that was not seen. Pure; the table is the test.

import type { Observation } from '#plan/observation';
import { type Action, type Condition, holds, type Step } from '#plan/plan';

export type Decision = 'done' | 'wait' | 'redo' | 'undo';

export const allHold = (conditions: readonly Condition[], o: Observation): boolean =>
  conditions.every((c) => holds(c, o) === true);

/** Setting a value twice is the same as once, from wherever it starts. */
export const isSetting = (a: Action): boolean =>
  a.do !== 'offline-block' && a.do !== 'online-block' && a.do !== 'add-dimm' && a.do !== 'remove-dimm';

export function isUnderWay(a: Action, o: Observation): boolean {
  switch (a.do) {
    case 'offline-block':
    case 'online-block':
      return o.blocks.some((b) => b.id === a.block && b.state === 'going-offline');
    case 'resize-virtio-mem':
      return o.hypervisor?.virtioMem.some((v) => v.id === a.id && v.requested === a.bytes) === true;
    default:
      return false;
  }
}

export function decide(step: Pick<Step, 'action' | 'expect' | 'effect'>, o: Observation): Decision {
  if (step.effect.length > 0 && allHold(step.effect, o)) return 'done';
  if (isUnderWay(step.action, o)) return 'wait';
  if (allHold(step.expect, o) || isSetting(step.action)) return 'redo';
  return 'undo';
}
