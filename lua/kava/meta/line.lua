---@meta
-- What src/bind/l_line.c registers: lines read from a terminal, for prompts.

---@class kava.line
local line = {}

--- A line editor on standard input and output, by libedit (keys as in emacs; ~/.editrc is read). nil, message, "unsupported" where
--- libedit is not there or this is no terminal.
---@return kava.Line?
---@return string? message
---@return string? code
function line.open() end

--- Appends to a file, in one write; one that is made is for its owner alone (0600).
---@param path string
---@param text string
---@return true?
---@return string? message
---@return string? code
function line.append(path, text) end

---@class kava.Line
local Line = {}

--- Reads a line. complete(text before the cursor) is called at a tab and returns what to insert there, and what to show below
--- the line; nil for nothing. Ctrl-C drops the line: nil, "interrupted". nil at the end of input.
---@param prompt string
---@param complete (fun(before: string): string?, string?)?
---@return string?
---@return "interrupted"?
function Line:read(prompt, complete) end

--- Makes a text the newest of the history.
---@param text string
function Line:remember(text) end

--- Gives the terminal back; idempotent.
function Line:release() end

---@class kava
local kava = { line = line }
