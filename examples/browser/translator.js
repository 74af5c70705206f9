// Translation with a folder that `kdmt export --to onnx` wrote: autoregressive models (greedy search) and ctc students.
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web";

// ids that all models of kdmt have
const [PAD, EOS, UNK] = [1, 2, 3];
// maximum number of target tokens for n source tokens, as `kdmt translate` has it by default
const maxLength = (n) => Math.trunc(1.2 * n + 10);

ort.env.wasm.numThreads = 1; // more need a server that isolates the page (COOP and COEP)
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.logLevel = "error";

async function fetchFile(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
}
const readJson = async (url) => (await fetchFile(url)).json();
const openGraph = async (url) => ort.InferenceSession.create(new Uint8Array(await (await fetchFile(url)).arrayBuffer()));
const int64 = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);

/** Text of one language as ids of the model, and back. */
class Codec {
  constructor(json) {
    this.tokenizer = new Tokenizer(json, {});
    this.pieces = []; // by id; the keys of an object are not in order of ids, since those like "2018" are first
    const { type, vocab } = json.model;
    const numbered = type === "Unigram" ? vocab.map(([piece], id) => [piece, id]) : Object.entries(vocab);
    for (const [piece, id] of numbered) this.pieces[id] = piece;
    this.bytes = new Map(); // id of each byte, for characters that have no piece
    this.pieces.forEach((piece, id) => {
      const byte = /^ <0x([0-9A-F]{2})>$/.exec(piece);
      if (byte) this.bytes.set(parseInt(byte[1], 16), id);
    });
  }

  /** Return the ids of a line; `size` is the number of symbols of the dictionary. */
  encode(line, size) {
    const ids = [];
    const encoded = this.tokenizer.encode(line, { add_special_tokens: false });
    encoded.ids.forEach((id, place) => {
      if (id !== UNK) ids.push(id < size ? id : UNK);
      else if (this.bytes.size) new TextEncoder().encode(encoded.tokens[place]).forEach((byte) => ids.push(this.bytes.get(byte)));
      else if (place === 0 || encoded.ids[place - 1] !== UNK) ids.push(UNK); // one for unknown characters in a row
    });
    return ids;
  }

  decode(ids) {
    const bytesOfId = new Map([...this.bytes].map(([byte, id]) => [id, byte]));
    const bytes = [];
    for (const id of ids) {
      let text = this.pieces[id].replace(/^ /, "").replaceAll("\u2581", " ");
      if (!bytes.length) text = text.replace(/^ /, ""); // pieces at the beginning have no space before them
      if (bytesOfId.has(id)) bytes.push(bytesOfId.get(id));
      else if (id > EOS) bytes.push(...new TextEncoder().encode(id === UNK ? " \u2047 " : text)); // others have no text
    }
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }
}

export class Translator {
  /** Load the model of a folder. */
  static async load(folder) {
    const read = (name) => readJson(`${folder}/${name}`);
    const [model, text] = await Promise.all([read("model.json"), read("text.json")]);
    const [source, target] = await Promise.all([read("browser/source.json"), read("browser/target.json")]);
    const family = model.nat?.family ?? "autoregressive";
    const names = { autoregressive: ["encoder_model", "decoder_model_merged"], ctc: ["model"] }[family];
    if (names === undefined) throw new Error(`this page does not run '${family}' models`);
    const graphs = await Promise.all(names.map((name) => openGraph(`${folder}/${name}.onnx`)));
    return new Translator(model, text, new Codec(source), new Codec(target), graphs);
  }

  constructor(model, text, source, target, graphs) {
    Object.assign(this, { model, text, source, target, graphs });
  }

  /** Return the translation of a line. */
  async translate(line) {
    const limit = this.model.config.max_source_positions - 1; // </s> takes the last position
    const ids = this.source.encode(this.#prepare(line), this.model.src_vocab_size).slice(0, limit);
    if (!ids.length) return "";
    ids.push(EOS);
    return this.target.decode(this.model.nat ? await this.#onePass(ids) : await this.#greedy(ids));
  }

  /** Return a line as it was in training; control characters and marks of direction are removed. */
  #prepare(line) {
    const form = this.text.unicode_form;
    if (form) line = line.replace(/[\u0000-\u0008\u000e-\u001b\u007f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]/g, "");
    if (form === "NFC" || form === "NFKC") line = line.normalize(form);
    line = line.trim().replace(/\s+/g, " ");
    return this.text.text.lowercase ? line.toLowerCase() : line;
  }

  /** Collapse the best path of a ctc model. */
  async #onePass(ids) {
    const { symbols } = await this.graphs[0].run({ src_tokens: int64(ids, [1, ids.length]) });
    const path = Array.from(symbols.data, Number);
    return path.filter((id, place) => id !== this.model.tgt_vocab_size && id !== path[place - 1]);
  }

  /** Choose the most probable token at each step. */
  async #greedy(ids) {
    const { config } = this.model;
    const [encoder, decoder] = this.graphs;
    const source = config.source_token == null ? ids : [config.source_token, ...ids];
    const mask = int64(new Array(source.length).fill(1), [1, source.length]);
    const { last_hidden_state } = await encoder.run({ input_ids: int64(source, [1, source.length]), attention_mask: mask });
    const inputs = { encoder_attention_mask: mask, encoder_hidden_states: last_hidden_state };
    const [heads, dim] = [config.decoder_attention_heads, config.decoder_embed_dim];
    for (const name of decoder.inputNames.filter((each) => each.startsWith("past_key_values."))) {
      inputs[name] = name.endsWith(".state")
        ? new ort.Tensor("float32", new Float32Array(dim), [1, dim])
        : new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, dim / heads]);
    }
    const given = config.target_token == null ? [EOS] : [EOS, config.target_token];
    const most = Math.min(maxLength(ids.length), config.max_target_positions - 1);
    const tokens = [];
    for (let position = 0; ; position++) {
      inputs.input_ids = int64([given[position] ?? tokens.at(-1)], [1, 1]);
      inputs.use_cache_branch = new ort.Tensor("bool", [position > 0], [1]);
      if (decoder.inputNames.includes("position")) inputs.position = int64([position], [1]);
      const outputs = await decoder.run(inputs);
      for (const name of decoder.inputNames.filter((each) => each.startsWith("past_key_values."))) {
        inputs[name] = outputs[name.replace("past_key_values", "present")];
      }
      if (position + 1 < given.length) continue;
      const token = best(outputs.logits.data, tokens.length ? [PAD] : [PAD, EOS]); // a translation has a token
      if (token === EOS || tokens.length === most) return tokens;
      tokens.push(token);
    }
  }
}

/** Return the id of the largest logit that is allowed. */
function best(logits, forbidden) {
  let found = -1;
  for (let id = 0; id < logits.length; id++) {
    if (!forbidden.includes(id) && (found < 0 || logits[id] > logits[found])) found = id;
  }
  return found;
}
