-- From any model that KAVA reads to any that it writes:
--   kava recipes/convert.lua DIR MODEL.gguf type=q8_0       a Hugging Face folder to GGUF, with its tokenizer
--   kava recipes/convert.lua MODEL.gguf DIR type=bf16       and back; quantised folders (bitsandbytes, GPTQ, …) as well
--   kava recipes/convert.lua DIR DIR2 shard=2GB             in files of another size
local cli = require "kava.cli"

local keys = {
  { "from", "string", "a Hugging Face folder or a GGUF file; also the first argument" },
  { "to", "string", "a folder, or a file that ends in .gguf; also the second argument" },
  { "type", "string", "of the matrices; auto: as they are, quantised ones as f16 where the new file cannot hold them so",
    choices = { "auto", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1" } },
  { "shard", "string", "how large a safetensors file may become: a number with MB or GB" },
  { "tokenizer", "boolean", "take the tokenizer along" },
  { "lossy", "boolean", "leave out what GGUF cannot be told of the model, as a window of Mistral; else that is an error" },
  { "threads", "integer", "0: the CPUs this process may use", min = 0 },
}

local function bytes_of(text)
  local number, unit = text:match "^(%d+%.?%d*)([MG])B$"
  local size = number and math.floor(tonumber(number) * (unit == "G" and 1e9 or 1e6)) or 0
  if size < 1 then cli.fail(("shard=%s: a number with MB or GB expected, as 5GB"):format(text), cli.exit.usage) end
  return size
end

-- What is stored where the user leaves it open: nil keeps each tensor's own type.
local function open_type(kava, m, to)
  for _, t in pairs(m:parameters()) do
    local plain = t.dtype:find "^b?f%d" ~= nil
    if kava.quant.parts(t) or not plain and not to:find "%.[gG][gG][uU][fF]$" then return "f16" end
  end
end

local function run(c)
  local kava = require "kava"
  if not c.from or not c.to then cli.fail("usage: kava recipes/convert.lua FROM TO [type=…]; --help says more", cli.exit.usage) end
  kava.threads(c.threads)
  local started = kava.clock()
  local m = cli.try(kava.model.load(c.from))
  local dtype = c.type
  if dtype == "auto" then dtype = open_type(kava, m, c.to) end
  if dtype and dtype:find "^q" and not c.to:find "%.[gG][gG][uU][fF]$" then
    cli.fail(("type=%s: a folder holds f32, f16 or bf16"):format(dtype), cli.exit.usage)
  end
  cli.try(m:save(c.to, { dtype = dtype, tokenizer = c.tokenizer, shard_size = bytes_of(c.shard), lossy = c.lossy }))
  print(("%s -> %s: %s, matrices %s, %.1f s"):format(c.from, c.to, tostring(m), dtype or "as they were", kava.clock() - started))
  if not c.tokenizer then return end
  local before, after = kava.tokenizer.load(c.from), kava.tokenizer.load(c.to)
  if not before then return print "no tokenizer was there" end
  cli.try(after, "the tokenizer that was written cannot be read")
  local same = before:fingerprint() == after:fingerprint()
  print("tokenizer: " .. (same and "the same" or "not wholly the same: GGUF has no place for all that tokenizer.json says; compare them"))
end

return cli.recipe({
  name = "convert",
  about = "Converts a model: kava recipes/convert.lua FROM TO [type=…].",
  keys = keys,
  positional = { "from", "to" },
  defaults = { type = "auto", shard = "5GB", tokenizer = true, lossy = false, threads = 0 },
  run = run,
}, ...)
