// Device requests: what dimmer asks of QEMU about memory devices: the state of all, a new DIMM, the size of a virtio-mem device,
// the balloon. Taking a DIMM out has a file of its own (unplug.ts).
//
//   add-dimm     query-memdev, qom-get ──> what the machine's other memory is made of
//                object-add qom-type=memory-backend-... id size share ──> device_add pc-dimm id memdev addr node
//                     ▲                                                        │ refused
//                     └──────────────── object-del ◄───────────────────────────┘
//   virtio-mem   qom-set PATH requested-size        the guest's driver follows, in its own time
//   balloon      balloon value                      likewise
//
// A reply says that QEMU has taken the request. Whether the guest has the memory is read inside the guest: a DIMM of a size
// that the guest's kernel cannot use is accepted, and OST says 0 for it (lab fact 3).
//
// Invariants: a refused add leaves no backend behind, one that was cut off may: the next add of the same name takes it over when
// it has the right size and nobody uses it. Every refusal has QEMU's own words as evidence; the errno is the one that Linux
// has for such a thing, since QEMU gives none. Spec 7.1; QEMU 7.2 hw/mem/memory-device.c, hw/mem/pc-dimm.c, backends/hostmem.c.

import type { ErrnoName } from '#base/errno';
import { errnoOfText } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import type { ActDone, HostFailure, Limits } from '#control/host';
import { QMP_FILES } from '#plan/observation';
import type { Action } from '#plan/plan';
import { countdown } from './line-channel.ts';
import { type Monitor, type QmpFailure, short } from './qmp-port.ts';

type Json = Readonly<Record<string, unknown>>;

/** What a new DIMM's memory is made of: the arguments of object-add but id and size. */
export type BackendKind = { readonly 'qom-type': string } & Json;

/** One reply of the hypervisor as a file of a capture. */
export type ReplyFile = { readonly path: string; readonly text: string };

const QUERIES: readonly { readonly path: string; readonly command: string; readonly args?: Json }[] = [
  { path: QMP_FILES.devices, command: 'query-memory-devices' },
  { path: QMP_FILES.summary, command: 'query-memory-size-summary' },
  { path: QMP_FILES.slots, command: 'query-acpi-ospm-status' },
  { path: QMP_FILES.balloon, command: 'query-balloon' },
  { path: QMP_FILES.status, command: 'query-status' },
  { path: QMP_FILES.machine, command: 'qom-get', args: { path: '/machine', property: 'memory' } },
];

/**
 * The hypervisor's replies, word for word, in the order of QMP_FILES. A request that QEMU refuses (no balloon, a machine type
 * without ACPI, an old QEMU) gives no file; a connection that fails, fails the whole. Cost: six requests, all under way at once.
 */
export async function queryHypervisor(
  monitor: Monitor,
  limits: Limits,
): Promise<Result<readonly ReplyFile[], HostFailure>> {
  const replies = await Promise.all(QUERIES.map(({ command, args }) => monitor.execute(command, args, limits)));
  const files: ReplyFile[] = [];
  for (const [k, reply] of replies.entries()) {
    const { path } = QUERIES[k];
    if (reply.ok) files.push({ path, text: `${JSON.stringify(reply.value)}\n` });
    else if (reply.error.kind !== 'refused' && reply.error.kind !== 'unsupported') return reply;
  }
  return ok(files);
}

/** One entry of query-memory-devices, as far as requests need it. */
export type MemoryDevice = { readonly type: string; readonly id: string; readonly memdev: string; readonly data: Json };

export async function memoryDevices(
  monitor: Monitor,
  limits: Limits,
): Promise<Result<readonly MemoryDevice[], HostFailure>> {
  const reply = await monitor.execute('query-memory-devices', undefined, limits);
  if (!reply.ok) return err(withErrno(reply.error));
  if (!Array.isArray(reply.value)) return err(nonsense('query-memory-devices', reply.value));
  return ok(
    (reply.value as readonly { type?: unknown; data?: Json }[]).map(({ type, data }) => ({
      type: String(type),
      id: String(data?.id ?? ''),
      memdev: String(data?.memdev ?? '').replace(/^\/objects\//, ''),
      data: data ?? {},
    })),
  );
}

/**
 * Plugs a DIMM: backend, then device.
 * @param kind  what its memory is made of; undefined: as the machine's other memory
 * Refusals: EEXIST (a device or a backend of that name, or the addresses are taken), ENOSPC (no slot, no room below maxmem),
 * EINVAL (alignment, no such node), ENOMEM (this host has not that much), and QEMU's other words without an errno.
 */
export async function addDimm(
  monitor: Monitor,
  action: Extract<Action, { do: 'add-dimm' }>,
  kind: BackendKind | undefined,
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  const left = countdown(limits);
  const { id, memdev, bytes, node, addr } = action;
  const evidence: string[] = [];
  const backend = kind === undefined ? await backendLikeTheRest(monitor, left()) : ok({ kind, why: 'as asked for' });
  if (!backend.ok) return backend;
  evidence.push(`backend ${backend.value.kind['qom-type']}: ${backend.value.why}`);

  const made = await monitor.execute('object-add', { ...backend.value.kind, id: memdev, size: bytes }, left());
  if (made.ok) evidence.push(`object-add ${memdev}: done`);
  else {
    const before = await takenOver(monitor, action, made.error, left());
    if (!before.ok) return before;
    evidence.push(before.value);
  }

  const plugged = await monitor.execute('device_add', { driver: 'pc-dimm', id, memdev, node, addr }, left());
  if (plugged.ok) return ok({ evidence: [...evidence, `device_add ${id}: done`] });
  const failure = withErrno(plugged.error, evidence);
  // Nobody knows whether QEMU has done it: the backend stays for whoever tries again.
  if (failure.kind !== 'refused' && failure.kind !== 'unsupported') return err(failure);
  const undone = await monitor.execute('object-del', { id: memdev }, left());
  const said = undone.ok ? `object-del ${memdev}: done` : `object-del ${memdev}: ${undone.error.sentence}`;
  return err({ ...failure, evidence: [...(failure.evidence ?? []), said] });
}

/** object-add was refused: is it because an earlier add of the same DIMM was cut off in the middle? */
async function takenOver(
  monitor: Monitor,
  { memdev, bytes }: Extract<Action, { do: 'add-dimm' }>,
  refused: QmpFailure,
  limits: Limits,
): Promise<Result<string, HostFailure>> {
  const failure = withErrno(refused);
  if (failure.errno !== 'EEXIST') return err(failure);
  const left = countdown(limits);
  const [devices, backends] = [await memoryDevices(monitor, left()), await queryMemdev(monitor, left())];
  if (!devices.ok || !backends.ok) return err(failure);
  const there = backends.value.find((b) => b.id === memdev);
  if (there?.size !== bytes || devices.value.some((d) => d.memdev === memdev)) return err(failure);
  return ok(`object-add ${memdev}: it is there, of the same size and unused, from an add that was cut off`);
}

async function queryMemdev(monitor: Monitor, limits: Limits): Promise<Result<readonly Json[], HostFailure>> {
  const reply = await monitor.execute('query-memdev', undefined, limits);
  if (!reply.ok) return err(withErrno(reply.error));
  return Array.isArray(reply.value) ? ok(reply.value as Json[]) : err(nonsense('query-memdev', reply.value));
}

/**
 * Kind of a new backend, after the machine's boot memory: a vhost-user back end or a huge page pool serves the new memory only
 * when it is shared, or of huge pages, as the rest is.
 *
 *   memory-backend-ram     the same, share and prealloc as there
 *   memory-backend-memfd   the same, and hugetlb and hugetlbsize as there
 *   memory-backend-file    in huge pages: memfd of such pages; else memfd. Never the same file: what lies at
 *                          mem-path may be a file, and two backends of one file are the same memory twice.
 */
async function backendLikeTheRest(
  monitor: Monitor,
  limits: Limits,
): Promise<Result<{ readonly kind: BackendKind; readonly why: string }, HostFailure>> {
  const left = countdown(limits);
  const plain = (why: string): Result<{ kind: BackendKind; why: string }, never> =>
    ok({ kind: { 'qom-type': 'memory-backend-ram' }, why });
  const backends = await queryMemdev(monitor, left());
  const devices = await memoryDevices(monitor, left());
  if (!backends.ok) return backends.error.kind === 'unsupported' ? plain('query-memdev is not known') : backends;
  if (!devices.ok) return devices;
  const plugged = new Set(devices.value.map((d) => d.memdev));
  const boot = backends.value
    .filter((b) => typeof b.id === 'string' && !plugged.has(b.id))
    .sort((a, b) => (String(a.id) < String(b.id) ? -1 : 1))[0];
  if (boot === undefined) return plain("the machine's boot memory is no named backend");
  const get = async (property: string): Promise<unknown> => {
    const reply = await monitor.execute('qom-get', { path: `/objects/${String(boot.id)}`, property }, left());
    return reply.ok ? reply.value : undefined;
  };
  const type = await get('type');
  const share = boot.share ?? (await get('share'));
  const shared = {
    ...(typeof share === 'boolean' ? { share } : {}),
    ...(boot.prealloc === true ? { prealloc: true } : {}),
  };
  const like = `like ${String(boot.id)}, ${share === true ? 'shared' : 'private'}`;
  switch (type) {
    case 'memory-backend-memfd': {
      const huge = (await get('hugetlb')) === true;
      const size = huge ? Number(await get('hugetlbsize')) : 0;
      const pages = huge ? { hugetlb: true, ...(size > 0 ? { hugetlbsize: size } : {}) } : {};
      return ok({ kind: { 'qom-type': type, ...shared, ...pages }, why: `${like}${huge ? ', in huge pages' : ''}` });
    }
    case 'memory-backend-file': {
      // Without a size, memfd takes the host's default huge page size: what a mount of hugetlbfs without options has, too.
      const huge = /(^|\/)(dev\/)?huge(pages|tlbfs)?[^/]*(\/|$)/.test(String(await get('mem-path')));
      return ok({
        kind: { 'qom-type': 'memory-backend-memfd', ...shared, ...(huge ? { hugetlb: true } : {}) },
        why: `${like}, which is a memory-backend-file${huge ? ' in huge pages' : ''}; a file cannot be used twice`,
      });
    }
    default:
      return ok({ kind: { 'qom-type': 'memory-backend-ram', ...shared }, why: like });
  }
}

/**
 * Asks a virtio-mem device for so many bytes in all. Refusals: ENOENT (no such device), EINVAL (no multiple of its blocks, more
 * than it has). Returns when QEMU has taken it: how much the guest's driver gives, the next observations tell.
 */
export async function resizeVirtioMem(
  monitor: Monitor,
  { id, bytes }: Extract<Action, { do: 'resize-virtio-mem' }>,
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  const left = countdown(limits);
  const devices = await memoryDevices(monitor, left());
  if (!devices.ok) return devices;
  const all = devices.value.filter((d) => d.type === 'virtio-mem');
  if (all.length === 0) return err({ kind: 'unsupported', sentence: 'the machine has no virtio-mem device' });
  const device = all.find((d) => d.id === id);
  if (device === undefined) return refuse('ENOENT', `there is no virtio-mem device ${id}`);
  const block = Number(device.data['block-size']);
  const max = Number(device.data['max-size']);
  if (bytes % block !== 0) return refuse('EINVAL', `${bytes} bytes are no multiple of the ${block} of device ${id}`);
  if (bytes > max) return refuse('EINVAL', `device ${id} has ${max} bytes at most, not ${bytes}`);
  const set = await monitor.execute(
    'qom-set',
    { path: `/machine/peripheral/${id}`, property: 'requested-size', value: bytes },
    left(),
  );
  if (!set.ok) return err(withErrno(set.error));
  return ok({ evidence: [`qom-set ${id} requested-size ${bytes}: done; ${Number(device.data.size)} were plugged`] });
}

/**
 * What the balloon shall leave of the boot memory, bytes. QEMU's own figure counts plugged DIMMs as well (get_current_ram_size),
 * so they are added here. QEMU takes more than there is as all. Unsupported without a balloon.
 */
export async function setBalloon(
  monitor: Monitor,
  bytes: number,
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  const left = countdown(limits);
  const devices = await memoryDevices(monitor, left());
  if (!devices.ok) return devices;
  const dimms = devices.value.reduce((n, d) => n + (d.type === 'dimm' ? Number(d.data.size) : 0), 0);
  const value = bytes + dimms;
  const set = await monitor.execute('balloon', { value }, left());
  if (set.ok) return ok({ evidence: [`balloon ${value}: done`] });
  const { qmpClass } = set.error;
  if (qmpClass === 'DeviceNotActive') return err({ ...set.error, kind: 'unsupported' });
  return err(withErrno(set.error));
}

/** Beginnings and parts of QEMU's sentences, and the errno that Linux has for the same; the first that is found counts. */
const WORDS: readonly (readonly [RegExp, ErrnoName])[] = [
  [/^Duplicate device ID|^attempt to add duplicate property|address range conflicts/, 'EEXIST'],
  [/^no free slots|^not enough space|^a used vhost backend has no free memory slots/, 'ENOSPC'],
  [/^can't add memory device|usable range for memory devices/, 'ENOSPC'],
  [/^can't use already busy memdev|^slot \d+ is busy|^object '.*' is in use|already in the process of unplug/, 'EBUSY'],
  [/must be (set|aligned)|has to be multiples|cannot exceed|exceeds the number|invalid slot|^Parameter /, 'EINVAL'],
  [/Cannot allocate memory|^os_mem_prealloc|Insufficient free host memory/, 'ENOMEM'],
  [/ not found$/, 'ENOENT'],
];

/** The failure with an errno, where its words stand for one, after what was seen before it. */
export function withErrno(failure: QmpFailure, before: readonly string[] = []): QmpFailure {
  const desc = failure.evidence?.[0]?.replace(/^\w+: /, '') ?? '';
  const errno =
    failure.errno ??
    (failure.kind === 'refused' ? (WORDS.find(([words]) => words.test(desc))?.[1] ?? errnoOfText(desc)) : undefined);
  const evidence = [...before, ...(failure.evidence ?? [])];
  return { ...failure, ...(errno === undefined ? {} : { errno }), ...(evidence.length === 0 ? {} : { evidence }) };
}

const refuse = (errno: ErrnoName, sentence: string): Result<never, HostFailure> =>
  err({ kind: 'refused', sentence, errno });

const nonsense = (command: string, value: unknown): HostFailure => ({
  kind: 'protocol',
  sentence: `QEMU answered ${command} with something that makes no sense`,
  evidence: [short(value)],
});
