// Requests for devices, against a made-up QEMU and recorded replies of a real one.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { treeFromFiles } from '#kernfs/memory-tree';
import { observe, QMP_FILES } from '#plan/observation';
import type { Action } from '#plan/plan';
import { addDimm, queryHypervisor, resizeVirtioMem, setBalloon, withErrno } from './device-requests.ts';
import { FakeQemu, LIMITS } from './qemu-host.cases.ts';

const GiB = 2 ** 30;
const ADD: Extract<Action, { do: 'add-dimm' }> = {
  do: 'add-dimm',
  id: 'dimm1',
  memdev: 'mem-dimm1',
  bytes: GiB,
  node: 1,
  addr: 0x140000000,
};

describe("QEMU's replies", () => {
  it('QH30 each lies untouched as JSON on one line; what QEMU refuses has no file', async () => {
    const qemu = new FakeQemu();
    qemu.dimm('dimm1', 0x140000000, GiB);
    qemu.balloon = undefined;
    const files = await queryHypervisor(qemu, LIMITS);
    if (!files.ok) throw new Error(files.error.sentence);
    expect(files.value.map((f) => f.path)).toEqual(
      Object.values(QMP_FILES).filter((path) => path !== QMP_FILES.balloon),
    );
    expect(files.value[0].text).toBe(`${JSON.stringify(qemu.devices)}\n`);
    expect(files.value.every((f) => f.text.indexOf('\n') === f.text.length - 1)).toBe(true);
  });

  it('QH31 a connection that fails, fails the whole', async () => {
    const qemu = new FakeQemu();
    qemu.cut = (command) =>
      command === 'query-balloon' ? { kind: 'disconnected', sentence: 'the connection broke' } : undefined;
    const files = await queryHypervisor(qemu, LIMITS);
    expect(!files.ok && files.error.kind).toBe('disconnected');
  });

  it('QH32 recorded replies are understood: a DIMM, a virtio-mem device, slots, maxmem, the balloon', () => {
    const golden = JSON.parse(
      readFileSync(new URL('../../../test/golden/qemu/replies-7.2.json', import.meta.url), 'utf8'),
    ) as Record<string, unknown>;
    const memory = '/sys/devices/system/memory';
    const seen = observe(
      treeFromFiles(
        new Map([
          ...Object.entries(golden).map(([path, reply]) => [path, `${JSON.stringify(reply)}\n`] as const),
          [`${memory}/block_size_bytes`, '8000000\n'],
          [`${memory}/memory0/state`, 'online\n'],
          ['/proc/meminfo', 'MemTotal: 2048 kB\nMemFree: 1024 kB\n'],
          [
            '/proc/buddyinfo',
            'Node 0, zone      DMA      0      0      0      0      0      0      0      0      0      0      1\n',
          ],
        ]),
      ),
    );
    if (!seen.ok) throw new Error(seen.error);
    expect(seen.value.hypervisor).toEqual({
      baseBytes: 2 * GiB,
      pluggedBytes: GiB / 2,
      maxBytes: 16 * GiB,
      slots: { total: 8, used: [0] },
      dimms: [{ id: 'dimm1', addr: 0x180000000, size: GiB / 4, node: 1, slot: 0, memdev: 'mem-dimm1' }],
      virtioMem: [
        {
          id: 'vmem0',
          addr: 0x100000000,
          node: 1,
          requested: GiB / 4,
          size: GiB / 4,
          maxSize: GiB,
          blockSize: 2 ** 21,
          memdev: 'vmb0',
        },
      ],
      // QEMU says 2.25 GiB: it counts DIMMs into what the balloon leaves, and virtio-mem not.
      balloonBytes: 2 * GiB,
      status: 'running',
    });
  });
});

describe('a DIMM is added', () => {
  it('QH33 backend first, then the device, at its address and on its node', async () => {
    const qemu = new FakeQemu();
    const done = await addDimm(qemu, ADD, undefined, LIMITS);
    expect(done.ok).toBe(true);
    const acts = qemu.requests.filter((r) => !r.command.startsWith('query-') && r.command !== 'qom-get');
    expect(acts).toEqual([
      { command: 'object-add', args: { 'qom-type': 'memory-backend-ram', share: false, id: 'mem-dimm1', size: GiB } },
      {
        command: 'device_add',
        args: { driver: 'pc-dimm', id: 'dimm1', memdev: 'mem-dimm1', node: 1, addr: 0x140000000 },
      },
    ]);
  });

  it("QH34 its memory is of the kind of the machine's boot memory, never the same file", async () => {
    const kindFor = async (type: string, more: Record<string, unknown>): Promise<unknown> => {
      const qemu = new FakeQemu();
      qemu.dimm('dimm0', 0x180000000, GiB); // what was plugged before says nothing of the boot memory
      qemu.backends = qemu.backends.map((b) => (b.id === 'ram0' ? { ...b, type, more } : b));
      await addDimm(qemu, ADD, undefined, LIMITS);
      const { id: _, size: __, ...kind } = qemu.requests.find((r) => r.command === 'object-add')?.args ?? {};
      return kind;
    };
    expect(await kindFor('memory-backend-ram', { share: true, prealloc: true })).toEqual({
      'qom-type': 'memory-backend-ram',
      share: true,
      prealloc: true,
    });
    expect(await kindFor('memory-backend-memfd', { share: true, hugetlb: true, hugetlbsize: 2 ** 21 })).toEqual({
      'qom-type': 'memory-backend-memfd',
      share: true,
      hugetlb: true,
      hugetlbsize: 2 ** 21,
    });
    expect(
      await kindFor('memory-backend-file', { share: true, 'mem-path': '/dev/hugepages/libvirt/qemu/1-vm' }),
    ).toEqual({
      'qom-type': 'memory-backend-memfd',
      share: true,
      hugetlb: true,
    });
    expect(await kindFor('memory-backend-file', { share: true, 'mem-path': '/dev/shm/vm.ram' })).toEqual({
      'qom-type': 'memory-backend-memfd',
      share: true,
    });
  });

  it('QH35 a refused device leaves no backend behind, and says why in an errno and in words', async () => {
    const qemu = new FakeQemu();
    const refused = await addDimm(qemu, { ...ADD, node: 7 }, undefined, LIMITS);
    expect(!refused.ok && [refused.error.kind, refused.error.errno]).toEqual(['refused', 'EINVAL']);
    expect(!refused.ok && refused.error.evidence?.join('\n')).toContain('exceeds the number of numa nodes: 2');
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0']);
  });

  it('QH36 a backend of an add that was cut off is taken over; one in use, or of another size, is refused', async () => {
    const qemu = new FakeQemu();
    let cut = true;
    qemu.cut = (command) => {
      if (command !== 'device_add' || !cut) return undefined;
      cut = false;
      return { kind: 'disconnected', sentence: 'the connection broke' };
    };
    const lost = await addDimm(qemu, ADD, undefined, LIMITS);
    expect(!lost.ok && lost.error.kind).toBe('disconnected');
    // Whether QEMU had added the device nobody knows: the backend stays.
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0', 'mem-dimm1']);
    const again = await addDimm(qemu, ADD, undefined, LIMITS);
    expect(again.ok).toBe(true);
    const twice = await addDimm(qemu, ADD, undefined, LIMITS);
    expect(!twice.ok && twice.error.errno).toBe('EEXIST');
    expect(qemu.devices.length).toBe(1);

    const other = new FakeQemu();
    other.backends.push({ id: 'mem-dimm1', type: 'memory-backend-ram', size: 2 * GiB, more: {} });
    const size = await addDimm(other, ADD, undefined, LIMITS);
    expect(!size.ok && size.error.errno).toBe('EEXIST');
    expect(other.devices).toEqual([]);
  });
});

describe('sizes', () => {
  const vmem = (): FakeQemu => {
    const qemu = new FakeQemu();
    const data = {
      id: 'vm0',
      'block-size': 2 ** 21,
      size: 0,
      'max-size': GiB,
      'requested-size': 0,
      memaddr: 0,
      node: 0,
    };
    qemu.devices.push({ type: 'virtio-mem', data });
    return qemu;
  };

  it('QH37 a virtio-mem device is asked by its path; what it cannot be is refused without asking', async () => {
    const qemu = vmem();
    const done = await resizeVirtioMem(qemu, { do: 'resize-virtio-mem', id: 'vm0', bytes: GiB / 2 }, LIMITS);
    expect(done.ok).toBe(true);
    expect(qemu.requests.at(-1)).toEqual({
      command: 'qom-set',
      args: { path: '/machine/peripheral/vm0', property: 'requested-size', value: GiB / 2 },
    });
    for (const [id, bytes, errno] of [
      ['vm0', 2 ** 21 + 4096, 'EINVAL'],
      ['vm0', 2 * GiB, 'EINVAL'],
      ['nosuch', GiB, 'ENOENT'],
    ] as const) {
      const other = vmem();
      const refused = await resizeVirtioMem(other, { do: 'resize-virtio-mem', id, bytes }, LIMITS);
      expect(!refused.ok && refused.error.errno).toBe(errno);
      expect(other.commands()).toEqual(['query-memory-devices']);
    }
  });

  it('QH38 a balloon that is not there is unsupported; a DIMM is added to what is asked of QEMU', async () => {
    const qemu = new FakeQemu();
    qemu.dimm('d0', 6 * GiB, GiB / 4);
    expect((await setBalloon(qemu, GiB, LIMITS)).ok).toBe(true);
    expect(qemu.balloon).toBe(GiB);
    expect(qemu.requests.at(-1)).toEqual({ command: 'balloon', args: { value: GiB + GiB / 4 } });
    qemu.balloon = undefined;
    const none = await setBalloon(qemu, GiB, LIMITS);
    expect(!none.ok && none.error.kind).toBe('unsupported');
  });

  it("QH39 QEMU's sentences stand for an errno where Linux has one", () => {
    const errnoOf = (desc: string): string | undefined =>
      withErrno({ kind: 'refused', sentence: `QEMU refused x: ${desc}`, evidence: [`GenericError: ${desc}`] }).errno;
    for (const [desc, errno] of [
      ["Duplicate device ID 'dimm0'", 'EEXIST'],
      ["address range conflicts with memory device id='dimm0'", 'EEXIST'],
      ["can't use already busy memdev: ram0", 'EBUSY'],
      ['slot 0 is busy', 'EBUSY'],
      ['invalid slot number 9, valid range is [0-1]', 'EINVAL'],
      ['address must be aligned to 0x200000 bytes', 'EINVAL'],
      ['no free slots available', 'ENOSPC'],
      [
        "can't add memory device [0x10000000000:0x4000000], usable range for memory devices [0x100000000:0x580000000]",
        'ENOSPC',
      ],
      ["cannot set up guest memory 'm1': Cannot allocate memory", 'ENOMEM'],
      ["object 'ram0' is in use, can not be deleted", 'EBUSY'],
      ["Device 'nosuch' not found", 'ENOENT'],
      ["'requested-size' cannot exceed the memory backend size(0x40000000)", 'EINVAL'],
      ['something that nobody has heard of', undefined],
    ])
      expect(errnoOf(desc as string), desc).toBe(errno);
  });
});
