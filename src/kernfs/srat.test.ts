import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { parseSrat, printSrat, type Srat, type SratEntry } from './srat.ts';

const GIB = 2 ** 30;
const memory = (proximity: number, base: number, length: number, more: Partial<SratEntry> = {}): SratEntry =>
  ({
    kind: 'memory',
    proximity,
    base,
    length,
    enabled: true,
    hotpluggable: false,
    nonVolatile: false,
    ...more,
  }) as SratEntry;
const cpu = (proximity: number, apicId: number): SratEntry => ({
  kind: 'cpu',
  id: 'apic',
  proximity,
  apicId,
  enabled: true,
  sapicEid: 0,
  clockDomain: 0,
});

/** What the log of a recorded guest (QEMU 7.2, two nodes of 1 GiB) says its firmware gave it: test/golden/boot. */
const GUEST: Srat = {
  revision: 1,
  oemId: 'BOCHS ',
  oemTableId: 'BXPC    ',
  oemRevision: 1,
  creatorId: 'BXPC',
  creatorRevision: 1,
  entries: [
    cpu(0, 0),
    cpu(1, 1),
    memory(0, 0, 0xa0000),
    memory(0, 0x100000, GIB - 0x100000),
    memory(1, GIB, GIB),
    memory(0, 0, 0, { enabled: false } as never),
    memory(1, 4 * GIB, 46 * GIB, { hotpluggable: true } as never),
  ],
};

const patched = (bytes: Uint8Array, change: (b: Uint8Array) => void): Uint8Array => {
  const out = bytes.slice();
  change(out);
  out[9] = 0;
  out[9] = (256 - out.reduce((n, b) => (n + b) & 0xff, 0)) & 0xff;
  return out;
};
const reasonOf = (bytes: Uint8Array): string => {
  const r = parseSrat(bytes);
  return r.ok ? 'read' : r.error.reason;
};

describe('SRAT', () => {
  it('SR1 a table prints and reads back; its length is that of the recorded guest’s', () => {
    const bytes = printSrat(GUEST);
    expect(bytes.length).toBe(0x118); // "ACPI: SRAT ... 000118 (v01 BOCHS  BXPC     00000001 BXPC 00000001)"
    expect(bytes.reduce((n, b) => (n + b) & 0xff, 0)).toBe(0);
    expect(parseSrat(bytes)).toEqual({ ok: true, value: GUEST });
    expect(parseSrat(printSrat({ ...GUEST, entries: [] }))).toEqual({ ok: true, value: { ...GUEST, entries: [] } });
  });

  it('SR1 fields lie where the standard puts them', () => {
    const entries: SratEntry[] = [
      { kind: 'cpu', id: 'apic', proximity: 0x04030201, apicId: 5, enabled: true, sapicEid: 6, clockDomain: 7 },
      { kind: 'cpu', id: 'x2apic', proximity: 0x11, apicId: 0x1234, enabled: false, sapicEid: 0, clockDomain: 9 },
      memory(0x21, 0x1_0000_0000, 0x2_0000_1000, { hotpluggable: true, nonVolatile: true } as never),
    ];
    const b = printSrat({ ...GUEST, entries });
    expect([...b.subarray(48, 64)]).toEqual([0, 16, 1, 5, 1, 0, 0, 0, 6, 2, 3, 4, 7, 0, 0, 0]);
    expect([...b.subarray(64, 88)]).toEqual([
      2,
      24,
      0,
      0,
      0x11,
      0,
      0,
      0,
      0x34,
      0x12,
      ...Array(6).fill(0),
      9,
      ...Array(7).fill(0),
    ]);
    expect([...b.subarray(88, 128)]).toEqual([
      ...[1, 40, 0x21, 0, 0, 0, 0, 0],
      ...[0, 0, 0, 0, 1, 0, 0, 0],
      ...[0, 0x10, 0, 0, 2, 0, 0, 0],
      ...[0, 0, 0, 0, 7, 0, 0, 0],
      ...Array(8).fill(0),
    ]);
    expect(parseSrat(b)).toMatchObject({ ok: true, value: { entries } });
  });

  it('SR2 entries of other types, and longer ones than known, are skipped by their length and kept', () => {
    const initiator = Uint8Array.from([5, 32, ...Array(30).keys()]);
    const longer = Uint8Array.from([1, 44, ...Array(42).keys()]);
    const entries: SratEntry[] = [{ kind: 'other', bytes: initiator }, cpu(0, 0), { kind: 'other', bytes: longer }];
    expect(parseSrat(printSrat({ ...GUEST, entries }))).toMatchObject({ ok: true, value: { entries } });
  });

  it('SR3 what is no table, is cut, has a wrong sum or an entry that does not fit, is refused in one sentence', () => {
    const good = printSrat(GUEST);
    expect(reasonOf(new Uint8Array())).toMatch(/0 bytes are no table/);
    expect(reasonOf(good.slice(0, 47))).toMatch(/47 bytes/);
    expect(reasonOf(patched(good, (b) => void (b[0] = 0x58)))).toMatch(/"XRAT"/);
    expect(reasonOf(good.slice(0, 200))).toMatch(/280 bytes long, the file ends after 200/);
    expect(reasonOf(patched(good, (b) => void b.set([20, 0], 4)))).toMatch(/says that it is 20/);
    const flipped = good.slice();
    flipped[60] = (flipped[60] as number) ^ 1;
    expect(reasonOf(flipped)).toMatch(/checksum/);
    expect(reasonOf(patched(good, (b) => void (b[49] = 0)))).toMatch(/byte 48 is 0 bytes long/);
    expect(reasonOf(patched(good, (b) => void (b[49] = 255)))).toMatch(/255 bytes long, and 232 are left/);
    expect(reasonOf(patched(good, (b) => void (b[49] = 15)))).toMatch(/byte 48: type 0 has 16 bytes, this one 15/);
    expect(reasonOf(patched(good, (b) => void b.fill(0xff, 88, 104)))).toMatch(/2\^53/);
    expect(reasonOf(good)).toBe('read');
  });

  it('SR3 bytes behind the table are not looked at', () => {
    const padded = new Uint8Array(400).fill(7);
    padded.set(printSrat(GUEST));
    expect(parseSrat(padded)).toEqual({ ok: true, value: GUEST });
  });

  it('SR1 random tables print and read back; SR3 damaged ones are refused or print back as they stand', () => {
    let refused = 0;
    for (let seed = 1; seed <= 400; seed++) {
      const prng = new Prng(seed);
      const entries = Array.from({ length: prng.below(12) }, (): SratEntry => {
        const enabled = prng.chance(0.8);
        const proximity = prng.chance(0.5) ? prng.below(4) : prng.next();
        if (prng.chance(0.5)) {
          const [base, length] = [prng.below(2 ** 20) * 2 ** 27, prng.next() * 4096];
          return {
            kind: 'memory',
            proximity,
            base,
            length,
            enabled,
            hotpluggable: prng.chance(0.5),
            nonVolatile: prng.chance(0.2),
          };
        }
        const apic = prng.chance(0.5);
        return {
          kind: 'cpu',
          id: apic ? 'apic' : 'x2apic',
          proximity,
          apicId: apic ? prng.below(256) : prng.next(),
          enabled,
          sapicEid: apic ? prng.below(256) : 0,
          clockDomain: prng.next(),
        };
      });
      const table = { ...GUEST, entries };
      const bytes = printSrat(table);
      expect(parseSrat(bytes), `seed=${seed}`).toEqual({ ok: true, value: table });
      const bad = patched(bytes, (b) => {
        for (let n = 1 + prng.below(3); n > 0; n--) b[prng.below(b.length)] = prng.below(256);
      });
      const read = parseSrat(prng.chance(0.2) ? bad.slice(0, prng.below(bad.length)) : bad);
      if (!read.ok) {
        refused++;
        expect(read.error.reason, `seed=${seed}`).toMatch(/\w/);
      } else {
        const again = parseSrat(printSrat(read.value));
        expect(again, `seed=${seed}`).toEqual(read);
      }
    }
    expect(refused).toBeGreaterThan(60);
    expect(refused).toBeLessThan(390);
  });
});
