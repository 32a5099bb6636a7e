// Guest scripts: commands of a recorded session that wrote to kernel files, as far as they are plain enough to follow.
//
//   echo WORD > PATH
//   for b in MEMORY/memory*; do [ $(cat $b/state) = offline ] && echo WORD > $b/state; done        by name, as a shell sorts
//   chmem -e|-d [-z ZONE] SIZE|RANGE
//   labtool write PATH WORD
//
// Everything else is taken to read, or to use memory. Follows util-linux 2.38 sys-utils/chmem.c for the order and the
// words that chmem writes.

const MEMORY = '/sys/devices/system/memory';

export type ScriptWrite = { readonly path: string; readonly value: string };

/** What a script may ask about memory blocks while it runs. */
export type BlockView = {
  readonly blockBytes: number;
  ids(): readonly number[];
  state(id: number): string;
  validZones(id: number): string;
};

/** Writes of a script, in order; each is made before the next is asked for, since scripts look first. */
export function* scriptWrites(command: string, view: BlockView): Generator<ScriptWrite, void, boolean> {
  const loop =
    /for b in (?:\$\(ls -d )?\/sys\/devices\/system\/memory\/memory\*\)?; do \[ \$\(cat \$b\/state\) = (\w[\w-]*) \] && echo (\w+) > \$b\/state; done/.exec(
      command,
    );
  if (loop !== null) {
    const names = view.ids().map((id) => `memory${id}`);
    for (const name of names.sort()) {
      const id = Number(name.slice(6));
      if (view.state(id) === loop[1]) yield { path: `${MEMORY}/${name}/state`, value: loop[2] as string };
    }
    return;
  }
  for (const part of command.split(/;|&&|\n/).map((p) => p.trim().replace(/^\(|\)$/g, ''))) {
    const echo = /^echo (\S+) > (\/(?:sys|proc)\/\S+)$/.exec(part);
    if (echo !== null) yield { path: echo[2] as string, value: echo[1] as string };
    const tool = /^(?:timeout \d+ )?labtool write (\/\S+) (\S+)(?: \d+)?$/.exec(part);
    if (tool !== null) yield { path: tool[1] as string, value: tool[2] as string };
    if (part.startsWith('chmem ')) yield* chmem(part.split(/\s+/).slice(1), view);
  }
}

const UNITS: Readonly<Record<string, number>> = { '': 2 ** 20, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

function* chmem(args: readonly string[], view: BlockView): Generator<ScriptWrite, void, boolean> {
  const enable = args.includes('-e');
  const zoneAt = args.indexOf('-z');
  const zone = zoneAt < 0 ? undefined : args[zoneAt + 1];
  const target = args.filter((a, k) => !a.startsWith('-') && (zoneAt < 0 || k !== zoneAt + 1))[0];
  if (target === undefined) return;
  const range = /^(0x[0-9a-f]+)-(0x[0-9a-f]+)$/i.exec(target);
  const size = /^(\d+)([kmgt]?)$/i.exec(target);
  const ids = [...view.ids()].sort((a, b) => (range === null && !enable ? b - a : a - b));
  let left =
    size === null
      ? Number.POSITIVE_INFINITY
      : (Number(size[1]) * UNITS[(size[2] as string).toLowerCase()]) / view.blockBytes;
  for (const id of ids) {
    if (left <= 0) return;
    const start = id * view.blockBytes;
    if (range !== null && (start < Number(range[1]) || start > Number(range[2]))) continue;
    if (view.state(id).startsWith(enable ? 'online' : 'offlin')) continue;
    const zones = view.validZones(id);
    let word = enable ? 'online' : 'offline';
    if (zone !== undefined) {
      if (enable && !zones.toLowerCase().includes(zone.toLowerCase())) continue;
      if (!enable && !zones.toLowerCase().startsWith(zone.toLowerCase())) continue;
      if (enable) word = zone === 'Movable' ? 'online_movable' : 'online_kernel';
    } else if (enable && zones.includes('Movable')) word = 'online_movable';
    const taken = yield { path: `${MEMORY}/memory${id}/state`, value: word };
    if (taken) left--;
  }
}
