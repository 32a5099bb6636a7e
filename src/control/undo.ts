// Undo: the way back from one action, computed from what the machine is like just before it, not from what was planned.
//
//   action                before (holds now; undone when it holds again)          way back
//   offline-block 34      block 34 is online in Movable                           online_movable
//                         block 34 is online in Normal, DMA32, ...                online_kernel
//   online-block 34       block 34 is offline                                     offline
//   add-dimm              no such DIMM, none of its blocks                        offline each of its blocks, remove it
//                         (what is so already is nobody's to undo: a DIMM of that id, an online block)
//   remove-dimm           the DIMM is plugged                                     add it again, where it was
//   resize-virtio-mem     requested and size as they are                          the request as it was
//   balloon               as much as it leaves now                                the same
//   set-hugepages         as many as there are                                    the same
//   auto-online           the word as it is                                       the same
//   drop-caches, compact  nothing                                                 nothing
//
// A block is put back with the word that names its zone. The default word would ask the policy, and that is how the kernel's
// own failed eject turns a Movable block into a Normal one, for good (lab fact 4). online_kernel cannot choose among the
// kernel zones: `before` names the very zone, so that a block that came back to another one is told as not put back
// (lab fact 21).
//
// Pure. A step that the plan calls final (no undo) has none here either.

import { unreachable } from '#base/assert';
import { blocksWithin, type Observation } from '#plan/observation';
import { type Action, type Condition, holds, type OnlineZone, type Step } from '#plan/plan';

/** The word that brings a block back to the zone it is in. Undefined (several zones): it cannot have been taken offline. */
export const wordOfZone = (zone: string | undefined): OnlineZone =>
  zone === undefined ? 'default' : zone === 'Movable' ? 'movable' : 'kernel';

/** What the action is going to change, as it is now. Empty when nothing that can be observed will be lost. */
export function beforeOf(action: Action, o: Observation): Condition[] {
  switch (action.do) {
    case 'offline-block':
    case 'online-block': {
      const { block } = action;
      const b = o.blocks.find((x) => x.id === block);
      if (b === undefined) return [];
      if (b.state === 'offline') return [{ is: 'block', block, state: 'offline' }];
      // Going-offline counts as online: that is what it is again when the offline is given up.
      return [{ is: 'block', block, state: 'online', ...(b.zone === undefined ? {} : { zone: b.zone }) }];
    }
    case 'add-dimm': {
      const own = blocksWithin(o, action.addr, action.bytes);
      const [first, last] = [own[0], own[own.length - 1]];
      const anyBlock = o.blocks.some((b) => own.includes(b.id));
      const blocks: Condition[] =
        anyBlock || first === undefined || last === undefined ? [] : [{ is: 'blocks', first, last, present: false }];
      const isThere = o.hypervisor?.dimms.some((d) => d.id === action.id) === true;
      return [{ is: 'dimm', id: action.id, present: isThere }, ...blocks];
    }
    case 'remove-dimm':
      return [{ is: 'dimm', id: action.id, present: true }];
    case 'resize-virtio-mem': {
      const v = o.hypervisor?.virtioMem.find((x) => x.id === action.id);
      return v === undefined ? [] : [{ is: 'virtio-mem', id: v.id, requested: v.requested, size: v.size }];
    }
    case 'balloon': {
      const bytes = o.hypervisor?.balloonBytes;
      return bytes === undefined ? [] : [{ is: 'balloon', bytes }];
    }
    case 'set-hugepages': {
      const { node, pageBytes } = action;
      return [{ is: 'hugepages', ...(node === undefined ? {} : { node }), pageBytes, atLeast: poolOf(action, o) }];
    }
    case 'auto-online':
      return o.autoOnline === undefined ? [] : [{ is: 'auto-online', word: o.autoOnline }];
    case 'drop-caches':
    case 'compact':
      return [];
    default:
      return unreachable(action);
  }
}

/** The actions that put back what `step` is going to change, in order; undefined: nothing can. */
export function undoOf(step: Step, o: Observation): Action[] | undefined {
  if (step.undo === undefined) return undefined;
  const { action } = step;
  switch (action.do) {
    case 'offline-block': {
      const b = o.blocks.find((x) => x.id === action.block);
      if (b === undefined || b.state === 'offline') return [];
      // Mid-way blocks do not show their zone: the plan saw it.
      const planned = step.undo.find((a) => a.do === 'online-block');
      const zone = b.zone === undefined ? (planned?.zone ?? 'default') : wordOfZone(b.zone);
      return [{ do: 'online-block', block: b.id, zone }];
    }
    case 'online-block': {
      const b = o.blocks.find((x) => x.id === action.block);
      return b === undefined || b.state !== 'offline' ? [] : [{ do: 'offline-block', block: b.id }];
    }
    case 'add-dimm':
      if (o.hypervisor?.dimms.some((d) => d.id === action.id) === true) return [];
      return [
        ...blocksWithin(o, action.addr, action.bytes).map((block): Action => ({ do: 'offline-block', block })),
        { do: 'remove-dimm', id: action.id, memdev: action.memdev },
      ];
    case 'remove-dimm': {
      const d = o.hypervisor?.dimms.find((x) => x.id === action.id);
      if (d === undefined) return [];
      return [{ do: 'add-dimm', id: d.id, memdev: d.memdev, bytes: d.size, node: d.node, addr: d.addr }];
    }
    case 'resize-virtio-mem': {
      const v = o.hypervisor?.virtioMem.find((x) => x.id === action.id);
      return v === undefined ? [] : [{ ...action, bytes: v.requested }];
    }
    case 'balloon': {
      const bytes = o.hypervisor?.balloonBytes;
      return bytes === undefined ? [] : [{ do: 'balloon', bytes }];
    }
    case 'set-hugepages':
      return [{ ...action, pages: poolOf(action, o) }];
    case 'auto-online':
      return o.autoOnline === undefined ? [] : [{ do: 'auto-online', word: o.autoOnline }];
    case 'drop-caches':
    case 'compact':
      return [];
    default:
      return unreachable(action);
  }
}

const poolOf = (a: { readonly node?: number; readonly pageBytes: number }, o: Observation): number =>
  o.hugePages
    .filter((p) => p.bytes === a.pageBytes && (a.node === undefined || p.node === a.node))
    .reduce((n, p) => n + p.total, 0);

/** Has the way back this action behind it? An action on a block that is gone has. Undefined: the observation cannot tell. */
export function isReached(a: Action, o: Observation): boolean | undefined {
  const h = o.hypervisor;
  switch (a.do) {
    case 'offline-block':
      return (o.blocks.find((b) => b.id === a.block)?.state ?? 'offline') === 'offline';
    case 'online-block': {
      const b = o.blocks.find((x) => x.id === a.block);
      if (b === undefined) return false;
      return b.state === 'online' && (a.zone === 'default' || (b.zone === 'Movable') === (a.zone === 'movable'));
    }
    case 'add-dimm':
    case 'remove-dimm':
      return h === undefined ? undefined : h.dimms.some((d) => d.id === a.id) === (a.do === 'add-dimm');
    case 'resize-virtio-mem':
      return h === undefined ? undefined : h.virtioMem.some((v) => v.id === a.id && v.requested === a.bytes);
    case 'balloon':
      return h?.balloonBytes === undefined ? undefined : h.balloonBytes === a.bytes;
    case 'set-hugepages':
      return poolOf(a, o) === a.pages;
    case 'auto-online':
      return o.autoOnline === undefined ? undefined : o.autoOnline === a.word;
    case 'drop-caches':
    case 'compact':
      return true;
    default:
      return unreachable(a);
  }
}

/** Does it hold again? A block that was offline and is gone by now went with the step that had brought it. */
export const isBack = (c: Condition, o: Observation): boolean =>
  holds(c, o) === true || (c.is === 'block' && c.state === 'offline' && !o.blocks.some((b) => b.id === c.block));

/** What a condition is about, by name: "block 34", one name a block. */
export function subjectsOf(c: Condition): string[] {
  switch (c.is) {
    case 'block':
      return [`block ${c.block}`];
    case 'blocks':
      return Array.from({ length: c.last - c.first + 1 }, (_, k) => `block ${c.first + k}`);
    case 'dimm':
    case 'virtio-mem':
      return [`${c.is} ${c.id}`];
    case 'hugepages':
      return [`hugepages ${c.node ?? 'all'} ${c.pageBytes}`];
    default:
      return [c.is];
  }
}

/** What a person types to do it by hand: in the guest's shell, or at QEMU's monitor. */
export function commandFor(a: Action): string {
  const state = (block: number): string => `/sys/devices/system/memory/memory${block}/state`;
  switch (a.do) {
    case 'offline-block':
      return `echo offline > ${state(a.block)}`;
    case 'online-block':
      return `echo ${a.zone === 'default' ? 'online' : `online_${a.zone}`} > ${state(a.block)}`;
    case 'add-dimm':
      return [
        `(qemu) object_add memory-backend-ram,id=${a.memdev},size=${a.bytes}`,
        `(qemu) device_add pc-dimm,id=${a.id},memdev=${a.memdev},node=${a.node},addr=0x${a.addr.toString(16)}`,
      ].join('; ');
    case 'remove-dimm':
      return `(qemu) device_del ${a.id}; after DEVICE_DELETED: (qemu) object_del ${a.memdev}`;
    case 'resize-virtio-mem':
      return `(qemu) qom-set ${a.id} requested-size ${a.bytes}`;
    case 'balloon':
      return `(qemu) balloon ${Math.round(a.bytes / 2 ** 20)}`;
    case 'drop-caches':
      return `echo ${a.what} > /proc/sys/vm/drop_caches`;
    case 'compact':
      return a.node === undefined
        ? 'echo 1 > /proc/sys/vm/compact_memory'
        : `echo 1 > /sys/devices/system/node/node${a.node}/compact`;
    case 'set-hugepages': {
      const dir = `hugepages/hugepages-${a.pageBytes / 1024}kB/nr_hugepages`;
      return `echo ${a.pages} > ${a.node === undefined ? '/sys/kernel/mm' : `/sys/devices/system/node/node${a.node}`}/${dir}`;
    }
    case 'auto-online':
      return `echo ${a.word} > /sys/devices/system/memory/auto_online_blocks`;
    default:
      return unreachable(a);
  }
}
