
"use strict";

// SHA-256 (FIPS 180-4) of `challengeId:nonce`, for the nonces 0, 1, 2 and so on.
// crypto.subtle is missing where a site is not served by HTTPS, and a promise for each digest is slow.
function nonceSearch(challengeId) {
  const INITIAL = Int32Array.of(
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
  );
  const ROUND_CONSTANTS = Int32Array.of(
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
  );
  const BLOCK_BYTES = 64;
  const ZERO = 0x30, NINE = 0x39;

  const schedule = new Int32Array(64);
  const digest = new Int32Array(8);

  const compress = (from, words, offset, into) => {
    for (let i = 0; i < 16; i++) schedule[i] = words[offset + i];
    for (let i = 16; i < 64; i++) {
      const x = schedule[i - 15], y = schedule[i - 2];
      schedule[i] = schedule[i - 16] + schedule[i - 7]
        + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3)
        + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10);
    }
    let a = from[0], b = from[1], c = from[2], d = from[3];
    let e = from[4], f = from[5], g = from[6], h = from[7];
    for (let i = 0; i < 64; i++) {
      const first = h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7))
        + (e & f ^ ~e & g) + ROUND_CONSTANTS[i] + schedule[i] | 0;
      const second = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10))
        + (a & b ^ a & c ^ b & c) | 0;
      h = g; g = f; f = e; e = d + first | 0;
      d = c; c = b; b = a; a = first + second | 0;
    }
    into[0] = from[0] + a; into[1] = from[1] + b; into[2] = from[2] + c; into[3] = from[3] + d;
    into[4] = from[4] + e; into[5] = from[5] + f; into[6] = from[6] + g; into[7] = from[7] + h;
  };

  const shift = at => 24 - 8 * (at & 3);
  const write = (words, at, byte) => { words[at >> 2] |= byte << shift(at); };

  const prefix = new TextEncoder().encode(`${challengeId}:`);
  // The whole blocks that every message begins with are dealt with once.
  const commonBytes = prefix.length - prefix.length % BLOCK_BYTES;
  const common = Int32Array.from(INITIAL);
  for (let start = 0; start < commonBytes; start += BLOCK_BYTES) {
    const words = new Int32Array(16);
    for (let at = 0; at < BLOCK_BYTES; at++) write(words, at, prefix[start + at]);
    compress(common, words, 0, common);
  }

  const nonceStart = prefix.length - commonBytes;
  let nonceEnd, blocks, message;

  const layOut = digits => {
    nonceEnd = nonceStart + digits.length;
    // Behind the message: one bit, and the number of bits in 8 bytes (FIPS 180-4 section 5.1.1).
    blocks = Math.ceil((nonceEnd + 9) / BLOCK_BYTES);
    message = new Int32Array(blocks * 16);
    for (let at = 0; at < nonceStart; at++) write(message, at, prefix[commonBytes + at]);
    for (let at = nonceStart; at < nonceEnd; at++) write(message, at, digits.charCodeAt(at - nonceStart));
    write(message, nonceEnd, 0x80);
    message[blocks * 16 - 1] = (commonBytes + nonceEnd) * 8;
  };

  layOut("0");

  return {
    // The first 32 bits of the digest.
    firstWord() {
      compress(common, message, 0, digest);
      if (blocks > 1) compress(digest, message, 16, digest);
      return digest[0];
    },

    // To the next nonce: counts up in the message itself, digit by digit.
    advance() {
      for (let at = nonceEnd - 1; at >= nonceStart; at--) {
        if ((message[at >> 2] >>> shift(at) & 0xff) !== NINE) {
          message[at >> 2] += 1 << shift(at);
          return;
        }
        message[at >> 2] -= NINE - ZERO << shift(at);
      }
      layOut(`1${"0".repeat(nonceEnd - nonceStart)}`);
    },

    nonce() {
      let digits = "";
      for (let at = nonceStart; at < nonceEnd; at++) {
        digits += String.fromCharCode(message[at >> 2] >>> shift(at) & 0xff);
      }
      return digits;
    },
  };
}
