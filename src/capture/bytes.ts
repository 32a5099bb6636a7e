// Bytes: the little writer and reader under the capture format. Little-endian, varints, and no trust in the input.
//
// A varint is LEB128: seven bits a byte, least significant first, the top bit set on all but the last byte. Only the
// shortest form is accepted, so that a value has exactly one encoding. Values stay below 2^49 (seven bytes): enough for
// 2^40 frames, and exact in a double.
//
// The reader never throws and never reads outside its bytes: the first thing it cannot read makes it `bad` for good,
// and from then on it returns 0. A caller reads a whole structure and asks once.

const VARINT_BYTES_MAX = 7;

/** CRC-32 of IEEE 802.3 (polynomial 0xedb88320, as in gzip and PNG), eight bytes a step. Cost about 1 ns a byte. */
export function crc32(bytes: Uint8Array): number {
  let c = -1;
  let i = 0;
  const t = CRC_TABLES;
  for (const end = bytes.length - 7; i < end; i += 8) {
    c ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    c =
      t[1792 + (c & 255)] ^
      t[1536 + ((c >>> 8) & 255)] ^
      t[1280 + ((c >>> 16) & 255)] ^
      t[1024 + (c >>> 24)] ^
      t[768 + bytes[i + 4]] ^
      t[512 + bytes[i + 5]] ^
      t[256 + bytes[i + 6]] ^
      t[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) c = t[(c ^ bytes[i]) & 255] ^ (c >>> 8);
  return ~c >>> 0;
}

/** Table k (256 entries each) is the CRC of one byte followed by k zero bytes: "slicing by eight". */
const CRC_TABLES = ((): Int32Array => {
  const tables = new Int32Array(8 * 256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    tables[n] = c;
  }
  for (let n = 256; n < tables.length; n++) {
    const before = tables[n - 256];
    tables[n] = tables[before & 255] ^ (before >>> 8);
  }
  return tables;
})();

export class ByteWriter {
  #bytes: Uint8Array;
  #length = 0;

  constructor(roomBytes = 1024) {
    this.#bytes = new Uint8Array(roomBytes);
  }

  u32(value: number): void {
    this.#reserve(4);
    const b = this.#bytes;
    const at = this.#length;
    b[at] = value;
    b[at + 1] = value >>> 8;
    b[at + 2] = value >>> 16;
    b[at + 3] = value >>> 24;
    this.#length = at + 4;
  }

  /** The caller promises an integer 0 <= value < 2^49. */
  varint(value: number): void {
    this.#reserve(VARINT_BYTES_MAX);
    const b = this.#bytes;
    let at = this.#length;
    while (value >= 128) {
      b[at++] = (value % 128) | 128;
      value = Math.floor(value / 128);
    }
    b[at++] = value;
    this.#length = at;
  }

  append(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** What was written so far, as bytes of its own. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  #reserve(room: number): void {
    if (this.#length + room <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + room));
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}

export class ByteReader {
  readonly #bytes: Uint8Array;
  #at = 0;
  #bad = false;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** True once something could not be read. */
  get bad(): boolean {
    return this.#bad;
  }

  /** Bytes not read yet: what a count that stands in the input can be checked against before anything is allocated. */
  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u32(): number {
    if (this.left < 4) return this.#fail();
    const b = this.#bytes;
    const at = this.#at;
    this.#at = at + 4;
    return (b[at] | (b[at + 1] << 8) | (b[at + 2] << 16) | (b[at + 3] << 24)) >>> 0;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let n = 0; n < VARINT_BYTES_MAX; n++) {
      if (this.#bad || this.#at === this.#bytes.length) return this.#fail();
      const byte = this.#bytes[this.#at++];
      value += (byte & 127) * scale;
      if (byte < 128) return byte === 0 && n > 0 ? this.#fail() : value; // a trailing zero group is not the shortest form
      scale *= 128;
    }
    return this.#fail();
  }

  #fail(): number {
    this.#bad = true;
    return 0;
  }
}
